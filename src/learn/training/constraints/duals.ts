/** Multipliers of constraints: dual ascent on how far each is violated. */
import type { DpPlan } from '../../privacy/index.ts';
import { type ItemFacts, OutcomeCounts, type Outcomes } from './counts.ts';
import { type ConstraintSpec, type CountedConstraint, violation } from './spec.ts';

const RATE = 0.5;
const MOST = 8;

/** Grows while the constraint is violated, falls while it is not; never below 0. */
export class Multiplier {
  value = 0;

  /** Returns the factor of the constraint's gradient: the multiplier and, while it is violated, a penalty. */
  ascend(constraint: ConstraintSpec, measured: number): number {
    const by = violation(constraint, measured);
    this.value = Math.max(0, Math.min(MOST, this.value + RATE * by));
    return this.value + Math.max(0, by);
  }
}

/**
 * Recall and gaps while a training runs: noised counts of right answers give every example of a weak group a weight. Inside a unit's
 * loss it is 1 + factor; after clipping the unit is scaled by its mean weight over the largest, at most 1.
 */
export class Steering {
  readonly #constraints: readonly CountedConstraint[];
  readonly #counts: OutcomeCounts;
  readonly #multipliers: readonly Multiplier[];
  #weights = new Map<string, number>();

  constructor(constraints: readonly CountedConstraint[], facts: ReadonlyMap<object, ItemFacts>) {
    this.#constraints = constraints;
    this.#counts = new OutcomeCounts(constraints, facts);
    this.#multipliers = constraints.map(() => new Multiplier());
  }

  /** Takes in a step's units under the plan's own noise (`countShare`), once a step. */
  count(plan: DpPlan | null | undefined, step: number, outcomes: readonly Outcomes[]): void {
    const { length } = this.#counts;
    const released = plan?.countNoise(step, length);
    this.#counts.add(outcomes, released?.noise ?? new Float64Array(length), released?.std ?? 0);
    this.#weigh((constraint, i, value) => this.#multipliers[i]!.ascend(constraint, value));
  }

  #weigh(factor: (constraint: CountedConstraint, i: number, value: number) => number): void {
    this.#weights = new Map();
    for (const [i, constraint] of this.#constraints.entries()) {
      const now = this.#counts.value(constraint);
      if (now === undefined) continue;
      const weight = 1 + factor(constraint, i, now.value);
      this.#weights.set(now.weakest, Math.max(weight, this.#weights.get(now.weakest) ?? 1));
    }
  }

  /** Of an example in its unit's loss. */
  weight(item: object): number {
    if (this.#weights.size === 0) return 1;
    return Math.max(1, ...this.#counts.groupsOf(item).map(group => this.#weights.get(group) ?? 1));
  }

  /** On a unit's clipped gradient: at most 1, so no unit contributes more than its clip. */
  unitFactor(items: readonly object[]): number {
    if (this.#weights.size === 0 || items.length === 0) return 1;
    const most = Math.max(1, ...this.#weights.values());
    return items.reduce<number>((sum, item) => sum + this.weight(item), 0) / items.length / most;
  }

  /** What the noised counts say of each constraint. */
  estimates(): (number | undefined)[] {
    return this.#constraints.map(constraint => this.#counts.value(constraint)?.value);
  }

  state(): number[] {
    return [...this.#multipliers.map(({ value }) => value), ...this.#counts.state()];
  }

  restore(state: readonly number[]): void {
    this.#multipliers.forEach((multiplier, i) => {
      multiplier.value = state[i] ?? 0;
    });
    this.#counts.restore(state.slice(this.#multipliers.length));
    this.#weigh((constraint, i, value) => this.#multipliers[i]!.value + Math.max(0, violation(constraint, value)));
  }
}
