import { invalid } from '../../base/errors.ts';
import { GGML, type GgmlType, isGgmlType } from '../model/formats/ggml.ts';
import { type ExportedGguf, type ModelParts, writeModelGguf } from '../model/formats/model-gguf.ts';
import type { Checkpoint } from '../model/types.ts';

/** The types a model can be quantized to, best first. */
export const QUANTIZE_TYPES = Object.entries(GGML)
  .filter(([, facts]) => facts.encode)
  .map(([name]) => name as GgmlType)
  .sort((a, b) => bits(b) - bits(a));

function bits(type: GgmlType): number {
  return (8 * GGML[type].bytes) / GGML[type].block;
}

/** By bits: what llama-quant.cpp itself falls back to from the k-quants, and the smallest type for what lies below. */
const NEAREST: Readonly<Record<string, GgmlType>> = {
  '2': 'q4_0',
  '3': 'q4_0',
  '4': 'q5_0',
  '5': 'q5_1',
  '6': 'q8_0',
  '8': 'q8_0',
};

/** `q8_0`, `Q8_0` ... ; the k-quants and other kinds are refused by name, with what to use instead. */
export function quantizeType(name: string): GgmlType {
  const type = name.toLowerCase();
  if (isGgmlType(type) && GGML[type].encode) return type;
  const k = /^q([2-8])_k/.exec(type)?.[1];
  if (k !== undefined || /^(iq|tq)\d/.test(type)) {
    const instead = NEAREST[k ?? '4'] ?? 'q5_0';
    throw invalid('type', `quantizing to ${name} is not supported: ${instead} is the nearest type that is`, {
      hint: `A k-quant needs rows of a multiple of 256; elsewhere llama.cpp falls back to such a type itself. Types: ${QUANTIZE_TYPES.join(', ')}.`,
    });
  }
  throw invalid('type', `'${name}' is not one of ${QUANTIZE_TYPES.join(', ')}`);
}

export interface Quantized extends ExportedGguf {
  readonly type: GgmlType;
  /** Average over all weights, block scales included. */
  readonly bitsPerWeight: number;
}

/**
 * Writes the model as GGUF with its matrices in `type`; norms stay float32, embeddings stay q8_0 below q8_0, matrices whose
 * rows do not divide into blocks become f16: `notes` says each. Tensors already in their type are copied.
 */
export async function quantizeModel(
  parts: ModelParts,
  out: string,
  options: { type: string; source?: Checkpoint },
): Promise<Quantized> {
  const type = quantizeType(options.type);
  const written = await writeModelGguf(parts, out, { type, source: options.source });
  const weights = parts.weights
    .names()
    .reduce((n, name) => n + parts.weights.shape(name).reduce((a, b) => a * b, 1), 0);
  return { ...written, type, bitsPerWeight: (8 * written.bytes) / weights };
}
