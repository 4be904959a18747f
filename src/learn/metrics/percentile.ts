/** Percentiles of the last values seen: response times, token rates. */
import { invalid } from '../../base/errors.ts';

/** Linear interpolation between order statistics (numpy's default). @param p from 0 to 100; null without values */
export function percentile(values: readonly number[], p: number): number | null {
  if (!(p >= 0 && p <= 100)) throw invalid('p', `must be from 0 to 100, not ${p}`);
  if (values.length === 0) return null;
  const sorted = [...values].sort((a, b) => a - b);
  const at = ((sorted.length - 1) * p) / 100;
  const low = sorted[Math.floor(at)]!;
  const high = sorted[Math.ceil(at)]!;
  return low + (high - low) * (at - Math.floor(at));
}

/** A ring of the last `size` values. */
export class PercentileWindow {
  readonly #ring: Float64Array;
  #seen = 0;

  constructor(size: number) {
    if (!(Number.isSafeInteger(size) && size >= 1))
      throw invalid('size', `must be a whole number above 0, not ${size}`);
    this.#ring = new Float64Array(size);
  }

  add(value: number): void {
    if (!Number.isFinite(value)) throw invalid('value', `must be a finite number, not ${value}`);
    this.#ring[this.#seen++ % this.#ring.length] = value;
  }

  get count(): number {
    return Math.min(this.#seen, this.#ring.length);
  }

  /** Null without values. */
  percentile(p: number): number | null {
    return percentile([...this.#ring.subarray(0, this.count)], p);
  }

  get p50(): number | null {
    return this.percentile(50);
  }

  get p95(): number | null {
    return this.percentile(95);
  }
}
