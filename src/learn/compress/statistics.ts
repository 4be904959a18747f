import { invalid } from '../../base/errors.ts';
import { groupByLength, padBatch, type TokenBatch } from '../model/engine/batch.ts';
import { embed, runBlocks } from '../model/engine/forward.ts';
import type { EngineModel } from '../model/engine/index.ts';
import { tensorflow } from '../tensor/backend.ts';

/** What a model's parts do on calibration text: all that the pruning scores are made of. */
export interface CalibrationStatistics {
  /** For each layer, of each feed-forward neuron's activation (the input of down_proj). [layers][ffn] */
  readonly meanAbs: readonly Float64Array[];
  readonly mean: readonly Float64Array[];
  /** Population variance. */
  readonly variance: readonly Float64Array[];
  /** Block influence 1 - mean cos(block input, block output) (ShortGPT, 2403.03853). [layers] */
  readonly influence: Float64Array;
  readonly tokens: number;
}

/** Padded batches of the sequences that have tokens, and which rows [batch * length] are no padding. */
export function calibrationBatches(
  model: EngineModel,
  sequences: readonly (readonly number[])[],
  maxTokens = 1024,
): { batch: TokenBatch; real: Float32Array; tokens: number }[] {
  const filled = sequences.filter(sequence => sequence.length > 0);
  if (filled.length === 0) throw invalid('calibration', 'the calibration text has no tokens');
  const lengths = filled.map(sequence => sequence.length);
  return groupByLength(lengths, maxTokens).map(group => {
    const batch = padBatch(
      group.map(i => filled[i]!),
      model.config,
    );
    const real = new Float32Array(batch.batch * batch.length);
    batch.lengths.forEach((length, b) => {
      real.fill(1, b * batch.length, b * batch.length + length);
    });
    return { batch, real, tokens: batch.lengths.reduce((sum, length) => sum + length, 0) };
  });
}

/** Running mean and sum of squared deviations, a batch at a time (Chan, Golub, LeVeque 1979): no cancellation in float32. */
class Moments {
  readonly mean: Float64Array;
  readonly #squares: Float64Array;
  #count = 0;

  constructor(width: number) {
    this.mean = new Float64Array(width);
    this.#squares = new Float64Array(width);
  }

  add(count: number, mean: ArrayLike<number>, squares: ArrayLike<number>): void {
    const total = this.#count + count;
    for (let i = 0; i < this.mean.length; i++) {
      const delta = mean[i]! - this.mean[i]!;
      this.#squares[i]! += squares[i]! + (delta * delta * this.#count * count) / total;
      this.mean[i]! += (delta * count) / total;
    }
    this.#count = total;
  }

  variance(): Float64Array {
    return this.#squares.map(sum => sum / this.#count);
  }
}

/**
 * One forward pass over the calibration text. Scores from private text would be a release of it: the text is public, or its
 * cost is the caller's to account.
 */
export function calibrationStatistics(
  model: EngineModel,
  sequences: readonly (readonly number[])[],
  options: { onBatch?: (done: number, total: number) => void } = {},
): CalibrationStatistics {
  const tf = tensorflow();
  const { layers, ffn } = model.config;
  const meanAbs = ffn.map(width => new Float64Array(width));
  const moments = ffn.map(width => new Moments(width));
  const influence = new Float64Array(layers);
  let seen = 0;
  const batches = calibrationBatches(model, sequences);
  for (const [done, { batch, real, tokens }] of batches.entries()) {
    const mask = tf.tensor2d(real, [real.length, 1]);
    const embedded = embed(model, batch);
    const last = runBlocks(model, embedded, batch, {
      watch: (layer, { x, y, inner }) => {
        const masked = tf.mul(inner, mask);
        const sums = tf.sum(tf.abs(masked), 0).dataSync();
        const into = meanAbs[layer]!;
        for (let i = 0; i < into.length; i++) into[i]! += sums[i]!;
        const mean = tf.div(tf.sum(masked, 0), tokens);
        const squares = tf.sum(tf.mul(tf.square(tf.sub(inner, mean)), mask), 0);
        moments[layer]!.add(tokens, mean.dataSync(), squares.dataSync());
        const along = tf.sum(tf.mul(x, y), -1, true);
        const lengths = tf.sqrt(tf.mul(tf.sum(tf.square(x), -1, true), tf.sum(tf.square(y), -1, true)));
        influence[layer]! += tf.sum(tf.mul(tf.divNoNan(along, lengths), mask)).dataSync()[0]!;
      },
    });
    embedded.dispose();
    last.dispose();
    mask.dispose();
    seen += tokens;
    options.onBatch?.(done + 1, batches.length);
  }
  for (const sums of meanAbs) for (let i = 0; i < sums.length; i++) sums[i]! /= seen;
  for (let layer = 0; layer < layers; layer++) influence[layer] = 1 - influence[layer]! / seen;
  return { meanAbs, mean: moments.map(m => m.mean), variance: moments.map(m => m.variance()), influence, tokens: seen };
}
