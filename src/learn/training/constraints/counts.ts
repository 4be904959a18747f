/**
 * Recall of classes and groups while a private training runs, from the units it draws anyway: each adds one vector of shares (right,
 * all) a group, of length at most 1, to a sum that gets the plan's own noise for it. What follows from noised sums is free.
 */
import { type CountedConstraint, type GapConstraint, groupNames } from './spec.ts';

/** What is known of an item in public terms: its label, and its region where groups go by region. */
export interface ItemFacts {
  readonly label: string;
  readonly region?: string;
}

/** Of one unit: its examples (any objects that stand for them) and whether each was right. */
export type Outcomes = readonly { readonly item: object; readonly correct: boolean }[];

/** How fast older steps fade: the weights they were counted at are gone. */
const DECAY = 0.8;
/** A group's sum must be so many standard deviations of its noise to be believed. */
const BELIEVED = 2;

export class OutcomeCounts {
  readonly groups: readonly string[];
  readonly #member: (facts: ItemFacts, group: number) => boolean;
  readonly #facts: ReadonlyMap<object, ItemFacts>;
  /** [groups * 2] right and all, and the variance of their noise. */
  #sums: Float64Array;
  #variance = 0;

  constructor(constraints: readonly CountedConstraint[], facts: ReadonlyMap<object, ItemFacts>) {
    const wanted = constraints.flatMap(constraint =>
      constraint.kind === 'recall' ? [recallGroup(constraint.label)] : gapGroups(constraint),
    );
    const unique = new Map(wanted.map(group => [group.key, group]));
    const groups = [...unique.values()];
    this.groups = groups.map(group => group.key);
    this.#member = (of, group) => groups[group]!.has(of);
    this.#facts = facts;
    this.#sums = new Float64Array(2 * groups.length);
  }

  get length(): number {
    return this.#sums.length;
  }

  /** One unit's vector, of length at most 1. */
  unitVector(outcomes: Outcomes): Float64Array {
    const vector = new Float64Array(this.length);
    for (const { item, correct } of outcomes) {
      const facts = this.#facts.get(item);
      if (facts === undefined) continue;
      for (let group = 0; group < this.groups.length; group++) {
        if (!this.#member(facts, group)) continue;
        if (correct) vector[2 * group]! += 1;
        vector[2 * group + 1]! += 1;
      }
    }
    // Groups that do not overlap give a length of at most sqrt 2: halved evenly, then held to 1 whatever was declared.
    for (let i = 0; i < vector.length; i++) vector[i]! /= outcomes.length * Math.SQRT2;
    const length = Math.sqrt(vector.reduce((sum, x) => sum + x * x, 0));
    if (length > 1) for (let i = 0; i < vector.length; i++) vector[i]! /= length;
    return vector;
  }

  /** Takes in a step's units. `noise`: of the sum, one number a component; all zero where nothing is private. */
  add(outcomes: readonly Outcomes[], noise: ArrayLike<number>, std: number): void {
    const sum = Float64Array.from(noise);
    for (const unit of outcomes) {
      if (unit.length === 0) continue;
      this.unitVector(unit).forEach((x, i) => {
        sum[i]! += x;
      });
    }
    this.#sums = this.#sums.map((old, i) => DECAY * old + sum[i]!);
    this.#variance = DECAY * DECAY * this.#variance + std * std;
  }

  /** Estimated recall of a group; undefined where too few were seen to tell it from noise. */
  recall(key: string): number | undefined {
    const group = this.groups.indexOf(key);
    const [right, all] = [this.#sums[2 * group]!, this.#sums[2 * group + 1]!];
    if (group < 0 || !(all > BELIEVED * Math.sqrt(this.#variance)) || all <= 0) return undefined;
    return Math.max(0, Math.min(1, right / all));
  }

  /** Value of a constraint by the estimates, and the group whose examples should count for more. */
  value(constraint: CountedConstraint): { value: number; weakest: string } | undefined {
    if (constraint.kind === 'recall') {
      const { key } = recallGroup(constraint.label);
      const value = this.recall(key);
      return value === undefined ? undefined : { value, weakest: key };
    }
    const known = gapGroups(constraint).flatMap(({ key }) => {
      const value = this.recall(key);
      return value === undefined ? [] : [{ key, value }];
    });
    if (known.length < 2) return undefined;
    known.sort((a, b) => a.value - b.value);
    return { value: known.at(-1)!.value - known[0]!.value, weakest: known[0]!.key };
  }

  /** The groups an item belongs to. */
  groupsOf(item: object): string[] {
    const facts = this.#facts.get(item);
    return facts === undefined ? [] : this.groups.filter((_, group) => this.#member(facts, group));
  }

  state(): number[] {
    return [this.#variance, ...this.#sums];
  }

  restore([variance, ...sums]: readonly number[]): void {
    this.#variance = variance ?? 0;
    if (sums.length === this.#sums.length) this.#sums = Float64Array.from(sums);
  }
}

interface Group {
  readonly key: string;
  readonly has: (facts: ItemFacts) => boolean;
}

const recallGroup = (label: string): Group => ({ key: `label ${label}`, has: facts => facts.label === label });

const gapGroups = ({ groups }: GapConstraint): Group[] =>
  groupNames(groups).map(name =>
    groups.by === 'region'
      ? { key: `region ${name}`, has: facts => facts.region === name }
      : { key: `labels ${name}`, has: facts => groups.of[name]!.includes(facts.label) },
  );

/** A constraint's value on measured rows: recall of a class, or the largest difference between groups' recalls. */
export function measuredValue(
  constraint: CountedConstraint,
  rows: readonly (ItemFacts & { readonly correct: boolean })[],
): number | undefined {
  const recall = ({ has }: Group): number | undefined => {
    const own = rows.filter(has);
    return own.length === 0 ? undefined : own.filter(row => row.correct).length / own.length;
  };
  if (constraint.kind === 'recall') return recall(recallGroup(constraint.label));
  const values = gapGroups(constraint).map(recall);
  // A group without a row is unknown: the gap to it cannot be vouched for.
  if (values.some(value => value === undefined)) return undefined;
  return Math.max(...(values as number[])) - Math.min(...(values as number[]));
}
