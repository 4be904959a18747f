/** HDDM_A (Frias-Blanco et al. 2015): Hoeffding's bound on the mean of values from 0 to 1; one-sided unless told; as river 0.26.1. */
import { LearndError } from '../../base/errors.ts';
import {
  type Detector,
  type DetectorState,
  DOWN,
  NO_DRIFT,
  probability,
  rate,
  type Settings,
  UP,
  type Verdict,
  withDefaults,
  yesNo,
} from './detector.ts';

const SPECS = {
  drift_confidence: probability(0.001),
  warning_confidence: probability(0.005),
  two_sided_test: yesNo(false),
};

interface Mean {
  n: number;
  mean: number;
}

const fresh = () => ({
  all: { n: 0, mean: 0 } as Mean,
  /** The prefix with the lowest upper bound, and the one with the highest lower bound. */
  lowest: { n: 0, mean: 0 } as Mean,
  highest: { n: 0, mean: 0 } as Mean,
  drifted: false,
});

export class HddmA implements Detector {
  readonly name = 'hddm-a';
  readonly #set: { drift_confidence: number; warning_confidence: number; two_sided_test: boolean };
  #state = fresh();

  constructor(settings: Settings = {}) {
    this.#set = withDefaults(SPECS, settings) as never;
  }

  #bound(n: number): number {
    return Math.sqrt((1 / (2 * n)) * Math.log(1 / this.#set.drift_confidence));
  }

  /** Smallest difference between a prefix and the whole that chance does not explain. */
  #least(prefix: Mean): number {
    const { all } = this.#state;
    if (prefix.n === all.n) return Infinity;
    const m = ((all.n - prefix.n) / prefix.n) * (1 / all.n);
    return Math.sqrt((m / 2) * Math.log(2 / this.#set.drift_confidence));
  }

  update(x: number): Verdict {
    rate(x);
    if (this.#state.drifted) this.#state = fresh();
    const state = this.#state;
    const { all } = state;
    all.n += 1;
    all.mean += (1 / all.n) * (x - all.mean);
    if (state.lowest.n === 0) state.lowest = { ...all };
    if (state.highest.n === 0) state.highest = { ...all };
    const slack = this.#bound(all.n);
    if (state.lowest.mean + this.#bound(state.lowest.n) >= all.mean + slack) state.lowest = { ...all };
    if (state.highest.mean - this.#bound(state.highest.n) <= all.mean - slack) state.highest = { ...all };
    const up = all.mean - state.lowest.mean >= this.#least(state.lowest);
    const down = this.#set.two_sided_test && state.highest.mean - all.mean >= this.#least(state.highest);
    state.drifted = up || down;
    return up ? UP : down ? DOWN : NO_DRIFT;
  }

  snapshot(): DetectorState {
    return structuredClone({ name: this.name, ...this.#state });
  }

  restore(state: DetectorState): void {
    const { name, ...rest } = structuredClone(state);
    if (name !== this.name || typeof rest.all !== 'object')
      throw new LearndError('corrupt', `not a stored state of ${this.name}`);
    this.#state = { ...fresh(), ...rest } as ReturnType<typeof fresh>;
  }
}
