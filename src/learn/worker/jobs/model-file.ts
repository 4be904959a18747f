import type { ExportedGguf, ModelParts } from '../../model/export.ts';
import type { OpenedModel } from '../../model/open.ts';
import type { WeightSource } from '../../model/types.ts';
import type { ModelResult } from '../types.ts';

export const parametersOf = (weights: WeightSource): number =>
  weights.names().reduce((sum, name) => sum + weights.shape(name).reduce((a, b) => a * b, 1), 0);

/** A model's parts with other weights in its place. */
export const partsOf = (checkpoint: OpenedModel, change: Partial<ModelParts> = {}): ModelParts => ({
  config: checkpoint.config,
  weights: checkpoint.weights,
  tokenizer: checkpoint.tokenizer,
  ...(checkpoint.chatTemplate === undefined ? {} : { chatTemplate: checkpoint.chatTemplate }),
  ...change,
});

/** The type that most of the weights are stored in, by number of weights in matrices. */
export function mainType(written: ExportedGguf, parts: ModelParts): string {
  const counts = new Map<string, number>();
  for (const { name, type } of written.tensors) {
    const shape = parts.weights.shape(name);
    if (shape.length > 1) counts.set(type, (counts.get(type) ?? 0) + shape.reduce((a, b) => a * b, 1));
  }
  return [...counts].reduce((a, b) => (b[1] > a[1] ? b : a))[0];
}

export const modelResult = (written: ExportedGguf, parts: ModelParts): ModelResult => ({
  file: { path: written.path, sha256: written.sha256, bytes: written.bytes },
  quantization: mainType(written, parts),
  parameters: parametersOf(parts.weights),
  notes: written.notes,
});

/**
 * What to write weights as that an adapter was worked into. Weights of 4 or 5 bits lie exactly on their grid, and an adapter's
 * changes, mostly smaller than half a step of it, would be rounded away: those become q8_0. Everything else keeps its type.
 */
export function typeAfterMerge(checkpoint: OpenedModel): 'keep' | 'q8_0' {
  const weights = checkpoint.weights as WeightSource & { storedType?: (name: string) => string };
  const coarse = weights
    .names()
    .some(name => /_proj\.weight$/.test(name) && /^(q[2-6]|iq|tq)/.test(weights.storedType?.(name) ?? ''));
  return coarse ? 'q8_0' : 'keep';
}
