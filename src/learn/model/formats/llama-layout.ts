import { LearndError } from '../../../base/errors.ts';
import type { ModelConfig } from '../types.ts';

/** How a Llama-family decoder's tensors are called in Hugging Face checkpoints and in GGUF, and which rows GGUF reorders. */

const OUTER: ReadonlyArray<readonly [hf: string, gguf: string]> = [
  ['model.embed_tokens.weight', 'token_embd.weight'],
  ['model.norm.weight', 'output_norm.weight'],
  ['lm_head.weight', 'output.weight'],
];
const INNER: ReadonlyArray<readonly [hf: string, gguf: string]> = [
  ['input_layernorm', 'attn_norm'],
  ['self_attn.q_proj', 'attn_q'],
  ['self_attn.k_proj', 'attn_k'],
  ['self_attn.v_proj', 'attn_v'],
  ['self_attn.o_proj', 'attn_output'],
  ['post_attention_layernorm', 'ffn_norm'],
  ['mlp.gate_proj', 'ffn_gate'],
  ['mlp.up_proj', 'ffn_up'],
  ['mlp.down_proj', 'ffn_down'],
];

const OUTER_TO_GGUF = new Map(OUTER);
const OUTER_TO_HF = new Map(OUTER.map(([hf, gguf]) => [gguf, hf]));
const INNER_TO_GGUF = new Map(INNER);
const INNER_TO_HF = new Map(INNER.map(([hf, gguf]) => [gguf, hf]));

/** `model.layers.3.self_attn.q_proj.weight` -> `blk.3.attn_q.weight`; undefined for a name of no Llama tensor. */
export function ggufName(hf: string): string | undefined {
  const outer = OUTER_TO_GGUF.get(hf);
  if (outer !== undefined) return outer;
  const match = /^model\.layers\.(\d+)\.(.+)\.(weight|bias)$/.exec(hf);
  const inner = match && INNER_TO_GGUF.get(match[2]!);
  return inner ? `blk.${match[1]}.${inner}.${match[3]}` : undefined;
}

export function hfName(gguf: string): string | undefined {
  const outer = OUTER_TO_HF.get(gguf);
  if (outer !== undefined) return outer;
  const match = /^blk\.(\d+)\.(\w+)\.(weight|bias)$/.exec(gguf);
  const inner = match && INNER_TO_HF.get(match[2]!);
  return inner ? `model.layers.${match[1]}.${inner}.${match[3]}` : undefined;
}

/** Every tensor that a model of this shape has, by its Hugging Face name, in layer order. */
export function expectedShapes(config: ModelConfig): Map<string, readonly number[]> {
  const { hidden, heads, kvHeads, headDim, vocabSize } = config;
  const shapes = new Map<string, readonly number[]>([['model.embed_tokens.weight', [vocabSize, hidden]]]);
  for (let n = 0; n < config.layers; n++) {
    const ffn = config.ffn[n]!;
    const at = `model.layers.${n}`;
    shapes.set(`${at}.input_layernorm.weight`, [hidden]);
    for (const [name, rows] of [
      ['q', heads],
      ['k', kvHeads],
      ['v', kvHeads],
    ] as const) {
      shapes.set(`${at}.self_attn.${name}_proj.weight`, [rows * headDim, hidden]);
      if (config.attentionBias) shapes.set(`${at}.self_attn.${name}_proj.bias`, [rows * headDim]);
    }
    shapes.set(`${at}.self_attn.o_proj.weight`, [hidden, heads * headDim]);
    shapes.set(`${at}.post_attention_layernorm.weight`, [hidden]);
    shapes.set(`${at}.mlp.gate_proj.weight`, [ffn, hidden]);
    shapes.set(`${at}.mlp.up_proj.weight`, [ffn, hidden]);
    shapes.set(`${at}.mlp.down_proj.weight`, [hidden, ffn]);
    if (config.downBias) shapes.set(`${at}.mlp.down_proj.bias`, [hidden]);
  }
  shapes.set('model.norm.weight', [hidden]);
  if (!config.tied) shapes.set('lm_head.weight', [vocabSize, hidden]);
  return shapes;
}

/** Throws LearndError('corrupt') when a tensor is missing or of another shape than the configuration says. */
export function checkShapes(
  path: string,
  config: ModelConfig,
  shapeOf: (hf: string) => readonly number[] | undefined,
): void {
  for (const [name, wanted] of expectedShapes(config)) {
    const found = shapeOf(name);
    if (found === undefined || found.join() !== wanted.join()) {
      const what = found === undefined ? 'is missing' : `has shape [${found.join(', ')}]`;
      throw new LearndError('corrupt', `${path}: ${name} ${what}, [${wanted.join(', ')}] was expected`, {
        field: name,
        hint: 'The weights do not fit the configuration beside them: fetch or export the model again.',
        retriable: false,
      });
    }
  }
}

/**
 * GGUF's `llama` architecture rotates neighbouring pairs of rows (RoPE "norm"), Hugging Face rotates halves: the converter
 * moves row (head, half s, j) to (head, 2 j + s). llama.cpp PR #3364. Returns for each GGUF row its Hugging Face row.
 */
export function ropeRows(heads: number, headDim: number): Int32Array {
  const rows = new Int32Array(heads * headDim);
  const half = headDim / 2;
  for (let h = 0; h < heads; h++) {
    for (let s = 0; s < 2; s++)
      for (let j = 0; j < half; j++) rows[h * headDim + 2 * j + s] = h * headDim + s * half + j;
  }
  return rows;
}

/** The architectures whose converter permutes q and k rows. */
export const permutesRope = (architecture: string): boolean => ['llama', 'llama-embed', 'deci'].includes(architecture);

/** Which head count orders this tensor's rows, or undefined when its rows are not permuted. */
export function rotatedHeads(hf: string, config: ModelConfig): number | undefined {
  if (/\.self_attn\.q_proj\.(weight|bias)$/.test(hf)) return config.heads;
  if (/\.self_attn\.k_proj\.(weight|bias)$/.test(hf)) return config.kvHeads;
  return undefined;
}

type Rows = Float32Array | Uint8Array;

/** Rows of `data` (equal-sized, whether weights or stored bytes) in another order: out[i] = data[order[i]]. */
export function gatherRows<T extends Rows>(data: T, order: ArrayLike<number>, rowsIn: number): T {
  const width = data.length / rowsIn;
  const out = new (data.constructor as new (n: number) => T)(order.length * width);
  for (let i = 0; i < order.length; i++) {
    const from = order[i]! * width;
    out.set(data.subarray(from, from + width), i * width);
  }
  return out;
}

/** GGUF row order -> Hugging Face row order. */
export function unrotateRows<T extends Rows>(data: T, heads: number, headDim: number): T {
  const forward = ropeRows(heads, headDim);
  const inverse = new Int32Array(forward.length);
  for (let i = 0; i < forward.length; i++) inverse[forward[i]!] = i;
  return gatherRows(data, inverse, forward.length);
}

/** Hugging Face row order -> GGUF row order. */
export function rotateRows<T extends Rows>(data: T, heads: number, headDim: number): T {
  return gatherRows(data, ropeRows(heads, headDim), heads * headDim);
}
