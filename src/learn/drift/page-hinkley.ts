/** Page-Hinkley test on the mean of a stream, both directions unless told otherwise; defaults and alarms of river 0.26.1. */
import { LearndError } from '../../base/errors.ts';
import {
  count,
  type Detector,
  type DetectorState,
  DOWN,
  finite,
  NO_DRIFT,
  notNegative,
  oneOf,
  positive,
  type Settings,
  UP,
  type Verdict,
  withDefaults,
} from './detector.ts';

const SPECS = {
  min_instances: count(30),
  /** Change of the mean that is tolerated. */
  delta: notNegative(0.005),
  threshold: positive(50),
  /** Forgetting factor of the sums. */
  alpha: positive(0.9999),
  mode: oneOf('both', ['both', 'up', 'down']),
};

const fresh = () => ({
  n: 0,
  mean: 0,
  sumUp: 0,
  sumDown: 0,
  // null stands for "none yet" (infinity has no JSON); river starts the largest sum at -1.
  minUp: null as number | null,
  maxDown: -1,
  drifted: false,
});

export class PageHinkley implements Detector {
  readonly name = 'page-hinkley';
  readonly #set: { min_instances: number; delta: number; threshold: number; alpha: number; mode: string };
  #state = fresh();

  constructor(settings: Settings = {}) {
    this.#set = withDefaults(SPECS, settings) as never;
  }

  update(x: number): Verdict {
    finite(x);
    if (this.#state.drifted) this.#state = fresh();
    const s = this.#state;
    const { alpha, delta, threshold, mode } = this.#set;
    s.n += 1;
    s.mean += (1 / s.n) * (x - s.mean);
    const off = x - s.mean;
    s.sumUp = alpha * s.sumUp + off - delta;
    s.sumDown = alpha * s.sumDown + off + delta;
    if (s.minUp === null || s.sumUp < s.minUp) s.minUp = s.sumUp;
    if (s.sumDown > s.maxDown) s.maxDown = s.sumDown;
    if (s.n < this.#set.min_instances) return NO_DRIFT;
    const up = mode !== 'down' && s.sumUp - s.minUp > threshold;
    const down = mode !== 'up' && s.maxDown - s.sumDown > threshold;
    s.drifted = up || down;
    return up ? UP : down ? DOWN : NO_DRIFT;
  }

  snapshot(): DetectorState {
    return { name: this.name, ...this.#state };
  }

  restore(state: DetectorState): void {
    const { name, ...rest } = state;
    if (name !== this.name || typeof rest.n !== 'number')
      throw new LearndError('corrupt', `not a stored state of ${this.name}`);
    this.#state = { ...fresh(), ...rest };
  }
}
