import { join } from 'node:path';
import { writeFeatureModel, writeLoraGguf, writeModelGguf } from '../../src/learn/model/export.ts';
import { writeSafetensorsFile } from '../../src/learn/model/formats/safetensors-write.ts';
import { openModel } from '../../src/learn/model/open.ts';
import { BpeTokenizer, TOKEN } from '../../src/learn/model/tokenizer/bpe.ts';
import { BYTE_TO_CHAR } from '../../src/learn/model/tokenizer/byte-alphabet.ts';
import type { HostTensor, ModelConfig } from '../../src/learn/model/types.ts';

/** A model of a few thousand weights that llama.cpp loads in milliseconds; a token a byte, so its answers are as long as asked for. */
export const TINY: ModelConfig = {
  vocabSize: 259,
  hidden: 32,
  layers: 2,
  heads: 2,
  kvHeads: 1,
  headDim: 16,
  ffn: [64, 64],
  contextLength: 1024,
  ropeTheta: 10_000,
  rmsEps: 1e-5,
  tied: true,
  attentionBias: false,
};

export const CHATML =
  "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}" +
  "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/** Token id of a byte. */
export const byteToken = (char: string): number => 3 + char.charCodeAt(0);
export const END_OF_TURN = 2;

/** mulberry32: the same weights from the same seed on every machine. */
function random(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

function tensor(next: () => number, shape: number[], size: number): HostTensor {
  const length = shape.reduce((product, n) => product * n, 1);
  return { shape, data: Float32Array.from({ length }, () => (next() * 2 - 1) * size) };
}

const ones = (length: number): HostTensor => ({ shape: [length], data: new Float32Array(length).fill(1) });

/** Writes `NAME.gguf` into the folder; different seeds answer differently. Returns its path. */
export async function writeTinyModel(
  folder: string,
  name: string,
  seed: number,
  options: { chatTemplate?: string | undefined; config?: Partial<ModelConfig>; mask?: boolean } = {
    chatTemplate: CHATML,
  },
): Promise<string> {
  const next = random(seed);
  const specials = ['<|endoftext|>', '<|im_start|>', '<|im_end|>'];
  // Behind the bytes: no id moves.
  const more = options.mask === true ? ['<|mask|>'] : [];
  const config = { ...TINY, vocabSize: TINY.vocabSize + more.length, ...options.config };
  const { hidden, headDim } = config;
  const weights = new Map<string, HostTensor>([
    ['model.embed_tokens.weight', tensor(next, [config.vocabSize, hidden], 1)],
    ['model.norm.weight', ones(hidden)],
  ]);
  for (let n = 0; n < config.layers; n++) {
    const put = (key: string, value: HostTensor) => weights.set(`model.layers.${n}.${key}.weight`, value);
    put('input_layernorm', ones(hidden));
    put('post_attention_layernorm', ones(hidden));
    put('self_attn.q_proj', tensor(next, [config.heads * headDim, hidden], 0.5));
    put('self_attn.k_proj', tensor(next, [config.kvHeads * headDim, hidden], 0.5));
    put('self_attn.v_proj', tensor(next, [config.kvHeads * headDim, hidden], 0.5));
    put('self_attn.o_proj', tensor(next, [hidden, config.heads * headDim], 0.5));
    put('mlp.gate_proj', tensor(next, [config.ffn[n]!, hidden], 0.5));
    put('mlp.up_proj', tensor(next, [config.ffn[n]!, hidden], 0.5));
    put('mlp.down_proj', tensor(next, [hidden, config.ffn[n]!], 0.5));
    if (!config.attentionBias) continue;
    const bias = (key: string, size: number) =>
      weights.set(`model.layers.${n}.self_attn.${key}_proj.bias`, tensor(next, [size], 0.1));
    bias('q', config.heads * headDim);
    bias('k', config.kvHeads * headDim);
    bias('v', config.kvHeads * headDim);
  }
  const tokenizer = new BpeTokenizer(
    {
      tokens: [...specials, ...BYTE_TO_CHAR, ...more],
      types: [specials, BYTE_TO_CHAR, more].flatMap((part, i) =>
        part.map(() => (i === 1 ? TOKEN.normal : TOKEN.control)),
      ),
      merges: [],
      pre: 'gpt-2',
      bosId: 1,
      eosId: END_OF_TURN,
    },
    'tiny',
  );
  const out = join(folder, `${name}.gguf`);
  await writeModelGguf(
    {
      config,
      tokenizer,
      ...(options.chatTemplate !== undefined && { chatTemplate: options.chatTemplate }),
      weights: {
        names: () => [...weights.keys()],
        shape: key => weights.get(key)!.shape,
        read: key => weights.get(key)!,
      },
    },
    out,
    { type: 'f32' },
  );
  return out;
}

/** A LoRA over the tiny model, strong enough to change its answers. */
export async function writeTinyLora(model: string, out: string, seed: number): Promise<string> {
  const next = random(seed);
  const pairs = new Map(
    Array.from({ length: TINY.layers }, (_, n) => [
      `model.layers.${n}.mlp.down_proj.weight`,
      { a: tensor(next, [2, TINY.ffn[n]!], 1), b: tensor(next, [TINY.hidden, 2], 1) },
    ]),
  );
  await writeLoraGguf({ rank: 2, alpha: 2, pairs }, await openModel(model), out);
  return out;
}

/** The feature model of a tiny model, and a head on it with random weights. */
export async function writeTinyHead(
  model: string,
  folder: string,
  name: string,
  labels: readonly string[],
  seed: number,
): Promise<{ file: string; features: string; layer: number; labels: readonly string[] }> {
  const features = join(folder, `${name}.features.gguf`);
  await writeFeatureModel(await openModel(model), 1, features);
  const next = random(seed);
  const file = join(folder, `${name}.head.safetensors`);
  const tensors = new Map<string, HostTensor>([
    ['weight', tensor(next, [labels.length, TINY.hidden], 4)],
    ['bias', tensor(next, [labels.length], 0.1)],
    ['mean', tensor(next, [TINY.hidden], 0.1)],
    ['scale', { shape: [TINY.hidden], data: Float32Array.from({ length: TINY.hidden }, () => 0.5 + next()) }],
  ]);
  await writeSafetensorsFile(file, tensors, 'f32');
  return { file, features, layer: 1, labels };
}
