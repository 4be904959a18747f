import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { invalid } from '../../../base/errors.ts';
import { BpeTokenizer } from '../tokenizer/bpe.ts';
import { tokenizerJson } from '../tokenizer/hf-json.ts';
import type { HostTensor, ModelConfig, WeightSource } from '../types.ts';
import { textChunk, type WrittenFile, writeAtomically } from './atomic-file.ts';
import type { ModelParts } from './model-gguf.ts';
import { type FloatType, writeSafetensorsFile } from './safetensors-write.ts';

const TORCH = { f32: 'float32', f16: 'float16', bf16: 'bfloat16' } as const;

/** config.json of LlamaForCausalLM, or of Qwen2ForCausalLM where the projections have biases. */
function configJson(config: ModelConfig, tokenizer: BpeTokenizer, type: FloatType): Record<string, unknown> {
  if (new Set(config.ffn).size > 1) {
    throw invalid('config.ffn', 'transformers has one feed-forward width for all layers, this model several', {
      hint: 'Export it as GGUF, which has a width for each layer.',
    });
  }
  const qwen = config.attentionBias;
  if (qwen && config.downBias) throw invalid('config.downBias', 'qwen2 has no bias in its feed-forward layers');
  return {
    architectures: [qwen ? 'Qwen2ForCausalLM' : 'LlamaForCausalLM'],
    model_type: qwen ? 'qwen2' : 'llama',
    vocab_size: config.vocabSize,
    hidden_size: config.hidden,
    intermediate_size: config.ffn[0],
    num_hidden_layers: config.layers,
    num_attention_heads: config.heads,
    num_key_value_heads: config.kvHeads,
    head_dim: config.headDim,
    hidden_act: 'silu',
    max_position_embeddings: config.contextLength,
    rope_theta: config.ropeTheta,
    rms_norm_eps: config.rmsEps,
    tie_word_embeddings: config.tied,
    ...(qwen ? {} : { attention_bias: false, mlp_bias: config.downBias === true }),
    bos_token_id: tokenizer.spec.bosId ?? null,
    eos_token_id: tokenizer.spec.eosId ?? null,
    pad_token_id: tokenizer.spec.padId ?? null,
    torch_dtype: TORCH[type],
    use_cache: true,
  };
}

function tokenizerConfig(parts: ModelParts, tokenizer: BpeTokenizer): Record<string, unknown> {
  const { spec } = tokenizer;
  const named = (id: number | undefined) => (id === undefined ? null : spec.tokens[id]);
  return {
    tokenizer_class: 'PreTrainedTokenizerFast',
    bos_token: named(spec.bosId),
    eos_token: named(spec.eosId),
    pad_token: named(spec.padId),
    unk_token: named(spec.unkId),
    clean_up_tokenization_spaces: false,
    model_max_length: parts.config.contextLength,
    model_input_names: ['input_ids', 'attention_mask'],
    ...(parts.chatTemplate === undefined ? {} : { chat_template: parts.chatTemplate }),
  };
}

/**
 * Writes a folder that transformers loads: config.json, model.safetensors, tokenizer.json, tokenizer_config.json.
 * `type` float32 unless said; a quantized model becomes its dequantized values.
 */
export async function writeSafetensors(
  parts: ModelParts,
  dir: string,
  options: { type?: FloatType } = {},
): Promise<WrittenFile[]> {
  const type = options.type ?? 'f32';
  const { tokenizer } = parts;
  if (!(tokenizer instanceof BpeTokenizer)) {
    throw invalid('tokenizer', 'only a byte-level BPE tokenizer can be written to tokenizer.json');
  }
  const json = (name: string, value: unknown): Promise<WrittenFile> =>
    writeAtomically(join(dir, name), textChunk(`${JSON.stringify(value, undefined, 2)}\n`));
  // Without config.json a folder is no model: it goes first and comes last, so that one cut short is never opened.
  const config = configJson(parts.config, tokenizer, type);
  await rm(join(dir, 'config.json'), { force: true });
  const weights = await writeSafetensorsFile(join(dir, 'model.safetensors'), withMlpBiases(parts), type);
  const tokenizerFile = await json('tokenizer.json', tokenizerJson(tokenizer.spec));
  const tokenizerSettings = await json('tokenizer_config.json', tokenizerConfig(parts, tokenizer));
  return [await json('config.json', config), tokenizerSettings, tokenizerFile, weights];
}

/** transformers wants a bias in all three feed-forward layers where down_proj has one: zeros for the other two. */
function withMlpBiases({ config, weights }: ModelParts): WeightSource {
  if (!config.downBias) return weights;
  const zeros = new Map<string, HostTensor>();
  for (const [n, width] of config.ffn.entries()) {
    for (const part of ['gate', 'up'])
      zeros.set(`model.layers.${n}.mlp.${part}_proj.bias`, { shape: [width], data: new Float32Array(width) });
  }
  return {
    names: () => [...weights.names(), ...zeros.keys()],
    shape: name => zeros.get(name)?.shape ?? weights.shape(name),
    read: name => zeros.get(name) ?? weights.read(name),
  };
}
