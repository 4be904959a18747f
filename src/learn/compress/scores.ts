import { createHash } from 'node:crypto';
import { invalid } from '../../base/errors.ts';
import type { ModelConfig, WeightSource } from '../model/types.ts';
import { streamFor } from '../privacy/index.ts';
import type { CalibrationStatistics } from './statistics.ts';

/** How feed-forward neurons are ranked; the higher the score, the longer a neuron stays. */
export const WIDTH_METHODS = ['activation', 'flap', 'wanda', 'magnitude', 'random'] as const;
export type WidthMethod = (typeof WIDTH_METHODS)[number];

/** The methods that need calibration text. */
export const needsText = (method: WidthMethod): boolean => method !== 'magnitude' && method !== 'random';

export function widthMethod(name: string): WidthMethod {
  const found = WIDTH_METHODS.find(method => method === name);
  if (found === undefined) throw invalid('method', `'${name}' is not one of ${WIDTH_METHODS.join(', ')}`);
  return found;
}

export interface ScoreSource {
  readonly config: ModelConfig;
  readonly weights: WeightSource;
  /** Wanted by the methods that need text. */
  readonly statistics?: CalibrationStatistics;
  /** For `random`. */
  readonly seed?: string;
}

/**
 * A score of each feed-forward neuron j, from its activation X_j (the input of down_proj), its column W_j there, and its
 * rows of gate and up. [layers][ffn]
 * - activation: mean |X_j| (Minitron, 2407.14679)
 * - flap: Var(X_j) sum_i W_ij^2 (2312.11983; CASIA-IVA-Lab/FLAP lib/prune.py, WIFV)
 * - wanda: sqrt(mean X_j^2) mean_i |W_ij|, Wanda's metric (2306.11695) summed over the neuron (the same file, WIFN)
 * - magnitude: the L2 norm of all the neuron's weights (LLM-Pruner's group, 2305.11627)
 * - random: the floor that any other should beat
 */
export function neuronScores(method: WidthMethod, source: ScoreSource): Float32Array[] {
  return source.config.ffn.map((width, layer) => layerScores(method, source, layer, width));
}

function layerScores(method: WidthMethod, source: ScoreSource, layer: number, width: number): Float32Array {
  const { weights } = source;
  if (method === 'random') return randomScores(width, source.seed, `neurons of layer ${layer}`);
  if (method === 'magnitude') return groupNorms(weights, layer, width);
  if (source.statistics === undefined) throw invalid('calibration', `${method} needs calibration text`);
  const [meanAbs, mean, variance] = (['meanAbs', 'mean', 'variance'] as const).map(
    key => source.statistics![key][layer]!,
  );
  if (method === 'activation') return Float32Array.from(meanAbs!);
  const { absolutes, squares, rows } = columnSums(weights, layer, width);
  if (method === 'flap') return Float32Array.from(variance!, (v, j) => v * squares[j]!);
  return Float32Array.from(mean!, (m, j) => (Math.sqrt(m * m + variance![j]!) * absolutes[j]!) / rows);
}

/** Uniform numbers that the seed and the purpose fix. */
export function randomScores(count: number, seed: string | undefined, purpose: string): Float32Array {
  const key = createHash('sha256')
    .update(seed ?? 'learnd')
    .digest();
  const stream = streamFor(key, `prune: ${purpose}`);
  return Float32Array.from({ length: count }, () => stream.uniform());
}

/** Of each column of down_proj: the sum of |w| and of w^2. */
function columnSums(
  weights: WeightSource,
  layer: number,
  width: number,
): { absolutes: Float64Array; squares: Float64Array; rows: number } {
  const { shape, data } = weights.read(`model.layers.${layer}.mlp.down_proj.weight`);
  const absolutes = new Float64Array(width);
  const squares = new Float64Array(width);
  for (let at = 0; at < data.length; at += width) {
    for (let j = 0; j < width; j++) {
      const w = data[at + j]!;
      absolutes[j]! += Math.abs(w);
      squares[j]! += w * w;
    }
  }
  return { absolutes, squares, rows: shape[0]! };
}

function groupNorms(weights: WeightSource, layer: number, width: number): Float32Array {
  const { squares } = columnSums(weights, layer, width);
  for (const part of ['gate', 'up']) {
    const { data } = weights.read(`model.layers.${layer}.mlp.${part}_proj.weight`);
    const hidden = data.length / width;
    for (let j = 0; j < width; j++) {
      for (let i = j * hidden; i < (j + 1) * hidden; i++) squares[j]! += data[i]! ** 2;
    }
  }
  return Float32Array.from(squares, Math.sqrt);
}

/**
 * Widths for the layers from scores made comparable between them (less their layer's mean, divided by its sample deviation, as
 * FLAP does): the `average` times `layers` best of all neurons stay, rounded to whole steps so that the sum is kept.
 */
export function unevenWidths(scores: readonly Float32Array[], average: number, step: number): number[] {
  const standard = scores.flatMap((values, layer) => {
    const n = values.length;
    const mean = values.reduce((a, b) => a + b, 0) / n;
    const deviation = Math.sqrt(values.reduce((a, b) => a + (b - mean) ** 2, 0) / Math.max(1, n - 1));
    return Array.from(values, value => ({ layer, score: deviation === 0 ? 0 : (value - mean) / deviation }));
  });
  const budget = average * scores.length;
  standard.sort((a, b) => b.score - a.score || a.layer - b.layer);
  const wanted = new Array<number>(scores.length).fill(0);
  for (const { layer } of standard.slice(0, budget)) wanted[layer]!++;
  const most = scores.map(values => Math.floor(values.length / step) * step);
  const widths = wanted.map((w, n) => Math.min(most[n]!, Math.max(step, Math.floor(w / step) * step)));
  // Steps left over go where rounding took most; steps too many come from where it gave most.
  let left = Math.round((budget - widths.reduce((a, b) => a + b, 0)) / step);
  while (left !== 0) {
    const sign = Math.sign(left);
    let best = -1;
    for (const [n, width] of widths.entries()) {
      const next = width + sign * step;
      if (next < step || next > most[n]!) continue;
      if (best < 0 || sign * (wanted[n]! - width) > sign * (wanted[best]! - widths[best]!)) best = n;
    }
    if (best < 0) break;
    widths[best]! += sign * step;
    left -= sign;
  }
  return widths;
}
