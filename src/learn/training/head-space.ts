/**
 * The space a head is trained in. A served head takes standardised features of length 1 (types.ts, Head); training sees them
 * through a further linear map that evens out the directions in which public text varies, so that clipped and noised steps are
 * spent on what tells texts apart and not on what all texts share. Being linear, the map is folded into the weights.
 */
import { invalid } from '../../base/errors.ts';

/** x -> (x - mean) / scale, then to length 1; a text without tokens (all zeros) stays at zero. Writes into `out` at `at`. */
export function standardise(
  feature: Float32Array,
  mean: Float32Array,
  scale: Float32Array,
  out: Float32Array = new Float32Array(feature.length),
  at = 0,
): Float32Array {
  const n = mean.length;
  let square = 0;
  let empty = true;
  for (let i = 0; i < n; i++) {
    if (feature[i] !== 0) empty = false;
    const value = (feature[i]! - mean[i]!) / scale[i]!;
    out[at + i] = value;
    square += value * value;
  }
  if (empty || square === 0) return out.fill(0, at, at + n);
  const factor = 1 / Math.sqrt(square);
  for (let i = 0; i < n; i++) out[at + i]! *= factor;
  return out;
}

/** Mean and standard deviation of each dimension. @throws LearndError where there are fewer than two features */
export function publicStatistics(features: readonly Float32Array[]): { mean: Float32Array; scale: Float32Array } {
  if (features.length < 2) throw invalid('publicFeatures', 'must hold the features of at least two public sentences');
  const n = features[0]!.length;
  const mean = new Float64Array(n);
  const square = new Float64Array(n);
  for (const f of features) for (let i = 0; i < n; i++) mean[i]! += f[i]! / features.length;
  for (const f of features) for (let i = 0; i < n; i++) square[i]! += (f[i]! - mean[i]!) ** 2 / features.length;
  return { mean: Float32Array.from(mean), scale: Float32Array.from(square, v => Math.sqrt(v) + 1e-6) };
}

/**
 * Public directions are stretched by at most 1 / sqrt(RIDGE) beside the average one. On BANKING77 and CLINC150 (15 intents, 250 users)
 * ridges of 1 to 3 do alike and .3 is a point behind at epsilon 8: 206 sentences say little about 576 directions.
 */
const RIDGE = 3;

/** y = L^-1 x / m, L L^T = C / mean(C_ii) + ridge I, C the second moments of public features, m their mean length after. */
export class TrainingSpace {
  readonly #lower: readonly Float64Array[];
  readonly #factor: number;
  readonly size: number;

  /** @param features standardised public features [hidden] each */
  constructor(features: readonly Float32Array[], ridge = RIDGE) {
    this.size = features[0]!.length;
    this.#lower = cholesky(secondMoments(features), ridge);
    this.#factor = 1;
    const lengths = features.reduce((sum, x) => sum + Math.sqrt(this.into(x).reduce((s, v) => s + v * v, 0)), 0);
    this.#factor = features.length / lengths;
  }

  /** A standardised feature (at `from` in `x`) in this space. */
  into(x: Float32Array, from = 0, out: Float32Array = new Float32Array(this.size), at = 0): Float32Array {
    const n = this.size;
    const y = new Float64Array(n);
    for (let i = 0; i < n; i++) {
      const row = this.#lower[i]!;
      let sum = x[from + i]!;
      for (let k = 0; k < i; k++) sum -= row[k]! * y[k]!;
      y[i] = sum / row[i]!;
    }
    for (let i = 0; i < n; i++) out[at + i] = y[i]! * this.#factor;
    return out;
  }

  /** The inverse of `fold`. */
  unfold(folded: Float32Array): Float64Array {
    const n = this.size;
    const weight = new Float64Array(folded.length);
    for (let at = 0; at < folded.length; at += n)
      for (let i = 0; i < n; i++) {
        const lower = this.#lower[i]!;
        for (let k = 0; k <= i; k++) weight[at + k]! += (lower[k]! * folded[at + i]!) / this.#factor;
      }
    return weight;
  }

  /** Rows [rows, hidden] that act on this space, as rows that act on standardised features. */
  fold(weight: Float64Array): Float32Array {
    const n = this.size;
    const folded = new Float32Array(weight.length);
    for (let at = 0; at < weight.length; at += n) {
      const row = new Float64Array(n);
      for (let i = 0; i < n; i++) row[i] = weight[at + i]! * this.#factor;
      for (let i = n - 1; i >= 0; i--) {
        const lower = this.#lower[i]!;
        const value = row[i]! / lower[i]!;
        row[i] = value;
        for (let k = 0; k < i; k++) row[k]! -= lower[k]! * value;
      }
      folded.set(row, at);
    }
    return folded;
  }
}

/** Lower triangle of the mean of x x^T. */
function secondMoments(features: readonly Float32Array[]): Float64Array[] {
  const n = features[0]!.length;
  const rows = Array.from({ length: n }, (_, i) => new Float64Array(i + 1));
  const share = 1 / features.length;
  for (const x of features) {
    for (let i = 0; i < n; i++) {
      const row = rows[i]!;
      const xi = x[i]! * share;
      for (let j = 0; j <= i; j++) row[j]! += xi * x[j]!;
    }
  }
  return rows;
}

/** Factors moments / mean diagonal + ridge I, in place. */
function cholesky(rows: Float64Array[], ridge: number): Float64Array[] {
  const n = rows.length;
  const mean = rows.reduce((sum, row, i) => sum + row[i]!, 0) / n;
  for (let i = 0; i < n; i++) {
    const row = rows[i]!;
    for (let j = 0; j <= i; j++) {
      const other = rows[j]!;
      let sum = row[j]! / mean + (i === j ? ridge : 0);
      for (let k = 0; k < j; k++) sum -= row[k]! * other[k]!;
      row[j] = i === j ? Math.sqrt(sum) : sum / other[j]!;
    }
  }
  return rows;
}
