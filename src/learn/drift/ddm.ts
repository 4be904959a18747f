/** DDM (Gama et al. 2004): an error rate (values 0 or 1) that rises above its best by so many deviations; as river 0.26.1. */
import { LearndError } from '../../base/errors.ts';
import {
  count,
  type Detector,
  type DetectorState,
  NO_DRIFT,
  positive,
  rate,
  type Settings,
  UP,
  type Verdict,
  withDefaults,
} from './detector.ts';

const SPECS = { warm_start: count(30), warning_threshold: positive(2), drift_threshold: positive(3) };

const fresh = () => ({ n: 0, p: 0, best: null as { p: number; s: number } | null, drifted: false, warning: false });

export class Ddm implements Detector {
  readonly name = 'ddm';
  readonly #set: { [K in keyof typeof SPECS]: number };
  #state = fresh();

  constructor(settings: Settings = {}) {
    this.#set = withDefaults(SPECS, settings) as never;
  }

  /** In the warning zone: not drift yet. */
  get warning(): boolean {
    return this.#state.warning;
  }

  update(x: number): Verdict {
    rate(x);
    if (this.#state.drifted) this.#state = fresh();
    const state = this.#state;
    state.n += 1;
    state.p += (1 / state.n) * (x - state.p);
    const p = state.p;
    const s = Math.sqrt((p * (1 - p)) / state.n);
    if (state.n <= this.#set.warm_start) return NO_DRIFT;
    if (state.best === null || p + s <= state.best.p + state.best.s) state.best = { p, s };
    state.drifted = p + s > state.best.p + this.#set.drift_threshold * state.best.s;
    state.warning = !state.drifted && p + s > state.best.p + this.#set.warning_threshold * state.best.s;
    return state.drifted ? UP : NO_DRIFT;
  }

  snapshot(): DetectorState {
    return structuredClone({ name: this.name, ...this.#state });
  }

  restore(state: DetectorState): void {
    const { name, ...rest } = structuredClone(state);
    if (name !== this.name || typeof rest.n !== 'number')
      throw new LearndError('corrupt', `not a stored state of ${this.name}`);
    this.#state = { ...fresh(), ...rest };
  }
}
