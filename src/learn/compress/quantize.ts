import { invalid } from '../../base/errors.ts';
import { GGML, type GgmlType, isGgmlType } from '../model/formats/ggml.ts';
import { type ExportedGguf, type ModelParts, writeModelGguf } from '../model/formats/model-gguf.ts';
import type { Checkpoint } from '../model/types.ts';

/** The types a model can be quantized to, best first. */
export const QUANTIZE_TYPES = (Object.keys(GGML) as GgmlType[]).sort((a, b) => bits(b) - bits(a));

function bits(type: GgmlType): number {
  return (8 * GGML[type].bytes) / GGML[type].block;
}

/** By bits, of the kinds that llama.cpp has beside these. */
const NEAREST: Readonly<Record<string, GgmlType>> = { '5': 'q5_k', '6': 'q6_k', '8': 'q8_0' };

/** `q8_0`, `Q4_K` ... ; llama.cpp's mixes (Q4_K_M) and further kinds are refused by name, with what to use instead. */
export function quantizeType(name: string): GgmlType {
  const type = name.toLowerCase();
  if (isGgmlType(type)) return type;
  const k = /^q([2-8])_k/.exec(type)?.[1];
  if (k !== undefined || /^(iq|tq)\d/.test(type)) {
    const instead = NEAREST[k ?? '4'] ?? 'q4_k';
    throw invalid('type', `quantizing to ${name} is not supported: ${instead} is the nearest type that is`, {
      hint: `Types: ${QUANTIZE_TYPES.join(', ')}.`,
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
 * Writes the model as GGUF with its matrices in `type`; norms stay float32, embeddings stay q8_0 below q8_0 (q6_k under the smaller
 * k-quants), matrices whose rows do not divide into blocks fall back as in llama.cpp: q4_k to q5_0, q5_k to q5_1, q6_k to q8_0, then
 * f16. `notes` says each, and how many tensors are of which type. Tensors already in their type are copied.
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
  const counts = Object.entries(written.types).sort((a, b) => b[1] - a[1]);
  const notes = [...written.notes, `tensors: ${counts.map(([name, count]) => `${count} ${name}`).join(', ')}`];
  return { ...written, notes, type, bitsPerWeight: (8 * written.bytes) / weights };
}
