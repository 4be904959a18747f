/**
 * ADWIN (Bifet, Gavalda 2007): a window that grows while its mean holds and drops its oldest part when two parts of it differ.
 * The window is kept as buckets of 1, 2, 4, ... values (sum, and sum of squared deviations after Babcock et al. 2003), so memory
 * is logarithmic. Defaults, order of arithmetic and alarm indices are those of river 0.26.1.
 */
import { LearndError } from '../../base/errors.ts';
import {
  count,
  type Detector,
  type DetectorState,
  DOWN,
  finite,
  NO_DRIFT,
  notNegative,
  probability,
  type Settings,
  UP,
  type Verdict,
  withDefaults,
} from './detector.ts';

/** Buckets of one size, oldest first. */
interface Row {
  sums: number[];
  deviations: number[];
}

const SPECS = {
  delta: probability(0.002),
  clock: count(32),
  max_buckets: count(5),
  min_window_length: count(5),
  grace_period: notNegative(10),
};

export class Adwin implements Detector {
  readonly name = 'adwin';
  readonly #set: { [K in keyof typeof SPECS]: number };
  #rows: Row[] = [];
  #width = 0;
  #sum = 0;
  #deviation = 0;
  #ticks = 0;
  #drifted = false;

  constructor(settings: Settings = {}) {
    this.#set = withDefaults(SPECS, settings) as { [K in keyof typeof SPECS]: number };
    this.#reset();
  }

  /** Values in the window. */
  get width(): number {
    return this.#width;
  }

  /** Mean of the window; 0 while it is empty. */
  get mean(): number {
    return this.#width === 0 ? 0 : this.#sum / this.#width;
  }

  #reset(): void {
    this.#rows = [{ sums: [], deviations: [] }];
    this.#width = 0;
    this.#sum = 0;
    this.#deviation = 0;
    this.#ticks = 0;
  }

  update(x: number): Verdict {
    finite(x);
    if (this.#drifted) this.#reset();
    this.#insert(x);
    const verdict = this.#detect();
    this.#drifted = verdict.drift;
    return verdict;
  }

  #insert(x: number): void {
    this.#rows[0]!.sums.push(x);
    this.#rows[0]!.deviations.push(0);
    this.#width += 1;
    if (this.#width > 1) {
      const off = x - this.#sum / (this.#width - 1);
      this.#deviation += ((this.#width - 1) * off * off) / this.#width;
    }
    this.#sum += x;
    // A row over its limit hands its two oldest buckets, merged, to the row of the next size.
    for (let i = 0; this.#rows[i]!.sums.length === this.#set.max_buckets + 1; i++) {
      const row = this.#rows[i]!;
      const size = 2 ** i;
      const [sumA = 0, sumB = 0] = row.sums.splice(0, 2);
      const [deviationA = 0, deviationB = 0] = row.deviations.splice(0, 2);
      const apart = sumA / size - sumB / size;
      if (i + 1 === this.#rows.length) this.#rows.push({ sums: [], deviations: [] });
      this.#rows[i + 1]!.sums.push(sumA + sumB);
      this.#rows[i + 1]!.deviations.push(deviationA + deviationB + size * 0.5 * apart * apart);
    }
  }

  #dropOldest(): void {
    const last = this.#rows.length - 1;
    const row = this.#rows[last]!;
    const n = 2 ** last;
    const sum = row.sums.shift()!;
    const deviation = row.deviations.shift()!;
    this.#width -= n;
    this.#sum -= sum;
    const apart = sum / n - this.#sum / this.#width;
    this.#deviation -= deviation + (n * this.#width * apart * apart) / (n + this.#width);
    if (row.sums.length === 0) this.#rows.pop();
  }

  /** Sign of the first cut at which the older part of the window differs from the newer, 0 where none does. */
  #cut(): number {
    let n0 = 0;
    let n1 = this.#width;
    let sum0 = 0;
    let sum1 = this.#sum;
    const least = this.#set.min_window_length;
    for (let i = this.#rows.length - 1; i >= 0; i--) {
      for (const sum of this.#rows[i]!.sums) {
        n0 += 2 ** i;
        n1 -= 2 ** i;
        sum0 += sum;
        sum1 -= sum;
        if (n1 <= 0) return 0;
        if (n0 < least || n1 < least) continue;
        const difference = sum0 / n0 - sum1 / n1;
        if (Math.abs(difference) > this.#threshold(n0, n1)) return difference < 0 ? 1 : -1;
      }
    }
    return 0;
  }

  #threshold(n0: number, n1: number): number {
    const { delta, min_window_length: least } = this.#set;
    const confidence = Math.log((2 * Math.log(this.#width)) / delta);
    const inverse = 1 / (n0 - least + 1) + 1 / (n1 - least + 1);
    const variance = this.#deviation / this.#width;
    return Math.sqrt(2 * inverse * variance * confidence) + (2 / 3) * confidence * inverse;
  }

  #detect(): Verdict {
    this.#ticks += 1;
    if (this.#ticks % this.#set.clock !== 0 || this.#width <= this.#set.grace_period) return NO_DRIFT;
    const first = this.#cut();
    if (first === 0) return NO_DRIFT;
    do this.#dropOldest();
    while (this.#cut() !== 0);
    return first > 0 ? UP : DOWN;
  }

  snapshot(): DetectorState {
    return structuredClone({
      name: this.name,
      rows: this.#rows,
      width: this.#width,
      sum: this.#sum,
      deviation: this.#deviation,
      ticks: this.#ticks,
      drifted: this.#drifted,
    });
  }

  restore(state: DetectorState): void {
    const { name, rows, width, sum, deviation, ticks, drifted } = structuredClone(state);
    if (name !== this.name || !Array.isArray(rows) || rows.length === 0 || typeof width !== 'number')
      throw new LearndError('corrupt', `not a stored state of ${this.name}`);
    this.#rows = rows as Row[];
    this.#width = width;
    this.#sum = sum as number;
    this.#deviation = deviation as number;
    this.#ticks = ticks as number;
    this.#drifted = drifted as boolean;
  }
}
