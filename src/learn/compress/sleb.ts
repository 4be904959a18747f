import { invalid } from '../../base/errors.ts';
import { scoredRows } from '../model/engine/batch.ts';
import { embed, runBlocks } from '../model/engine/forward.ts';
import { headLoss } from '../model/engine/head.ts';
import type { EngineModel } from '../model/engine/index.ts';
import type { Tensor } from '../tensor/backend.ts';
import { calibrationBatches } from './statistics.ts';

export interface DroppedLayer {
  /** Number of the layer in the whole model. */
  readonly layer: number;
  /** Nats a token of the model without it and those dropped before. */
  readonly nll: number;
}

/**
 * SLEB (2402.09025): drops one layer after another, each time the inner one without which the calibration text's perplexity
 * is lowest. The first and the last layer stay. The hidden state before each candidate is shared, so a drop among L layers
 * costs about L^2 / 2 block passes and L vocabulary passes over the text: a few thousand tokens are enough.
 */
export function slebLayers(
  model: EngineModel,
  sequences: readonly (readonly number[])[],
  count: number,
  options: { onCandidate?: (done: number, total: number) => void } = {},
): DroppedLayer[] {
  const { layers } = model.config;
  if (!Number.isInteger(count) || count < 0 || count > Math.max(0, layers - 2))
    throw invalid('drop_layers', `${count} is not between 0 and ${layers - 2}: the first and the last layer stay`);
  if (count > 0 && !sequences.some(sequence => sequence.length > 1))
    throw invalid('calibration', 'the calibration text has no token to predict');
  const kept = Array.from({ length: layers }, (_, n) => n);
  const dropped: DroppedLayer[] = [];
  const total = Array.from({ length: count }, (_, n) => layers - 2 - n).reduce((a, b) => a + b, 0);
  let done = 0;
  while (dropped.length < count) {
    const nll = lossWithoutEach(model, kept, sequences, () => options.onCandidate?.(++done, total));
    let best = 1;
    for (let i = 1; i < kept.length - 1; i++) if (nll[i]! < nll[best]!) best = i;
    dropped.push({ layer: kept[best]!, nll: nll[best]! });
    kept.splice(best, 1);
  }
  return dropped;
}

/** Nats a token without the kept layer at each place; only inner places are filled. */
function lossWithoutEach(
  model: EngineModel,
  kept: readonly number[],
  sequences: readonly (readonly number[])[],
  onCandidate: () => void,
): Float64Array {
  const sums = new Float64Array(kept.length);
  let tokens = 0;
  const batches = calibrationBatches(model, sequences);
  for (const [n, { batch }] of batches.entries()) {
    const scored = scoredRows(batch, () => 1);
    tokens += scored.rows.length;
    const run = (x: Tensor, layers: readonly number[]): Tensor => {
      let current = x.clone();
      for (const layer of layers) {
        const next = runBlocks(model, current, batch, { from: layer, to: layer + 1 });
        current.dispose();
        current = next;
      }
      return current;
    };
    let x = embed(model, batch);
    for (let i = 0; i < kept.length - 1; i++) {
      if (i > 0) {
        const without = run(x, kept.slice(i + 1));
        sums[i]! += headLoss(model, without, scored).losses.reduce((a, b) => a + b, 0);
        without.dispose();
        if (n === batches.length - 1) onCandidate();
      }
      const next = run(x, [kept[i]!]);
      x.dispose();
      x = next;
    }
    x.dispose();
  }
  return sums.map(sum => sum / tokens);
}
