import { Alarm } from '../../learn/drift/index.ts';

/**
 * One figure of the live version under two detectors: ADWIN, which finds sudden and moderate changes of a mean, and Page-Hinkley,
 * which adds up small ones. The alarm of the figure is raised when either raises and cleared when neither holds.
 */

export const DETECTORS = ['adwin', 'page-hinkley'] as const;
export type DetectorName = (typeof DETECTORS)[number];

export interface WatchState {
  /** Values before there is a reference; null: there is one. */
  readonly warmup: readonly number[] | null;
  readonly alarms: Readonly<Record<DetectorName, Record<string, unknown>>>;
}

export type WatchChange =
  | { readonly kind: 'raised'; readonly detector: DetectorName }
  | { readonly kind: 'cleared' }
  | null;

/** Live values of the alarms' own mean: enough to be sure, few enough to come back soon. */
const RECENT = 200;

export class Watch {
  readonly #minimum: number;
  readonly #alarms: ReadonlyMap<DetectorName, Alarm>;
  #warmup: number[] | null = [];

  /** @param options.minimum - values before there is a reference (where no seed gives one), and before an alarm may change. */
  constructor(options: { minimum: number; window: number }) {
    const window = Math.min(RECENT, options.window);
    this.#minimum = Math.min(options.minimum, window);
    this.#alarms = new Map(
      DETECTORS.map(detector => [
        detector,
        new Alarm({ detector, higherIsWorse: true, window, minimum: this.#minimum }),
      ]),
    );
  }

  get raised(): boolean {
    return [...this.#alarms.values()].some(alarm => alarm.status().raised);
  }

  /** Whether there is something to compare with. */
  get referenced(): boolean {
    return this.#warmup === null;
  }

  /** What is normal for this version: its losses (0/1 errors, or nats a token) item by item on held-out data. */
  seed(losses: readonly number[]): void {
    if (losses.length === 0) return;
    this.#warmup = null;
    for (const alarm of this.#alarms.values()) alarm.seed(losses);
  }

  /** One live loss, in the order of arrival. */
  update(loss: number): WatchChange {
    if (this.#warmup !== null) {
      this.#warmup.push(loss);
      if (this.#warmup.length >= this.#minimum) this.seed(this.#warmup);
      return null;
    }
    const before = this.raised;
    let by: DetectorName | undefined;
    for (const [detector, alarm] of this.#alarms) if (alarm.update(loss).change === 'raised') by ??= detector;
    if (!before && by !== undefined) return { kind: 'raised', detector: by };
    return before && !this.raised ? { kind: 'cleared' } : null;
  }

  snapshot(): WatchState {
    return {
      warmup: this.#warmup,
      alarms: Object.fromEntries(
        [...this.#alarms].map(([name, alarm]) => [name, alarm.snapshot()]),
      ) as WatchState['alarms'],
    };
  }

  restore(state: WatchState): void {
    this.#warmup = state.warmup === null ? null : [...state.warmup];
    for (const [name, alarm] of this.#alarms) alarm.restore(state.alarms[name]);
  }
}
