/**
 * An alarm about one figure of the serving version: raised only when the figure got worse, latched, seeded.
 *
 * The detector is first fed the champion's own results on held-out items, so it knows what normal looks like before the first live
 * value; their mean is the reference. Drift towards worse makes the figure suspect; the alarm is raised once the mean of the recent
 * live values is worse than the reference by more than its standard error (at once, or while the window fills with values after
 * the change), and stays raised until the figure is back within that, or until `seed` is called for a new champion.
 */
import { invalid, LearndError } from '../../base/errors.ts';
import type { Detector, DetectorState, Settings } from './detector.ts';
import { createDetector } from './registry.ts';

export interface AlarmOptions {
  readonly detector: string;
  readonly settings?: Settings;
  /** True for losses and times, false for scores. */
  readonly higherIsWorse: boolean;
  /** Live values the figure is the mean of. */
  readonly window?: number;
  /** Live values needed before an alarm may be raised or cleared. */
  readonly minimum?: number;
}

export interface AlarmStatus {
  readonly raised: boolean;
  /** What this value changed. */
  readonly change: 'raised' | 'cleared' | null;
  /** The detector fired on this value, whatever came of it. */
  readonly drift: boolean;
  /** Mean of the recent live values; null while there are fewer than the minimum. */
  readonly figure: number | null;
  /** Mean of the seed; null before there is one. */
  readonly reference: number | null;
}

const GOLDEN = (Math.sqrt(5) - 1) / 2;

/** A fixed order that spreads neighbours far apart: holdout items often come sorted by label, which would look like drift. */
function spread(values: readonly number[]): number[] {
  return values
    .map((value, i) => ({ value, at: (i * GOLDEN) % 1 }))
    .sort((a, b) => a.at - b.at)
    .map(({ value }) => value);
}

export class Alarm {
  readonly #options: Required<AlarmOptions>;
  #detector: Detector;
  #reference: { mean: number; deviation: number } | null = null;
  #recent: number[] = [];
  #suspectFor = 0;
  #raised = false;

  constructor(options: AlarmOptions) {
    this.#options = { settings: {}, window: 200, minimum: 20, ...options };
    const { window, minimum } = this.#options;
    if (!(Number.isSafeInteger(window) && window >= 1)) throw invalid('window', `must be at least 1, not ${window}`);
    if (!(Number.isSafeInteger(minimum) && minimum >= 1 && minimum <= window))
      throw invalid('minimum', `must be from 1 to the window (${window}), not ${minimum}`);
    this.#detector = createDetector(options.detector, this.#options.settings);
  }

  /**
   * Starts afresh for a champion, clearing the alarm.
   * @param values its results item by item on held-out data; none: the first window of live values becomes the reference
   */
  seed(values: readonly number[]): void {
    this.#detector = createDetector(this.#options.detector, this.#options.settings);
    this.#recent = [];
    this.#suspectFor = 0;
    this.#raised = false;
    this.#reference = null;
    if (values.length > 0) {
      for (const value of spread(values)) this.#detector.update(value);
      this.#refer(values);
    }
  }

  #refer(values: readonly number[]): void {
    const mean = values.reduce((a, b) => a + b, 0) / values.length;
    const square = values.reduce((a, b) => a + (b - mean) ** 2, 0) / values.length;
    this.#reference = { mean, deviation: Math.sqrt(square) };
  }

  /** One live value, in the order of arrival. */
  update(value: number): AlarmStatus {
    const { drift, direction } = this.#detector.update(value);
    const { window, higherIsWorse } = this.#options;
    this.#recent.push(value);
    if (this.#recent.length > window) this.#recent.shift();
    if (this.#reference === null && this.#recent.length === window) this.#refer(this.#recent);

    const worsened = drift && direction === (higherIsWorse ? 'up' : 'down');
    this.#suspectFor = worsened ? window : Math.max(0, this.#suspectFor - 1);
    const worse = this.#worse();
    let change: AlarmStatus['change'] = null;
    if (!this.#raised && this.#suspectFor > 0 && worse === true) {
      this.#raised = true;
      change = 'raised';
    } else if (this.#raised && worse === false) {
      this.#raised = false;
      this.#suspectFor = 0;
      change = 'cleared';
    }
    return { ...this.status(), change, drift };
  }

  /** Whether the figure is worse than the reference by more than a standard error; undefined while that is not known. */
  #worse(): boolean | undefined {
    const { figure, reference } = this.status();
    if (figure === null || reference === null) return undefined;
    const error = this.#reference!.deviation / Math.sqrt(this.#recent.length);
    const loss = this.#options.higherIsWorse ? figure - reference : reference - figure;
    return loss > error;
  }

  status(): AlarmStatus {
    const n = this.#recent.length;
    const figure = n < this.#options.minimum ? null : this.#recent.reduce((a, b) => a + b, 0) / n;
    return { raised: this.#raised, change: null, drift: false, figure, reference: this.#reference?.mean ?? null };
  }

  /** Plain JSON; restores into an alarm made with the same options. */
  snapshot(): Record<string, unknown> {
    return structuredClone({
      detector: this.#detector.snapshot(),
      reference: this.#reference,
      recent: this.#recent,
      suspectFor: this.#suspectFor,
      raised: this.#raised,
    });
  }

  restore(state: Record<string, unknown>): void {
    const { detector, reference, recent, suspectFor, raised } = structuredClone(state);
    if (!Array.isArray(recent) || typeof raised !== 'boolean') throw new LearndError('corrupt', 'not a stored alarm');
    this.#detector.restore(detector as DetectorState);
    this.#reference = reference as { mean: number; deviation: number } | null;
    this.#recent = recent as number[];
    this.#suspectFor = suspectFor as number;
    this.#raised = raised;
  }
}
