/** Constraints on what a training may do, as declared in a policy's finetune action. */

interface Common {
  /** Not met at the end: the gate refuses the candidate. */
  readonly hard: boolean;
}

/** Mean KL(base || model) a token on public text, nats. */
export interface KlConstraint extends Common {
  readonly kind: 'kl_to_base';
  readonly atMost: number;
}

/** The likeliest of some continuations: no more than this probability, whichever it is. */
export interface ForbiddenConstraint extends Common {
  readonly kind: 'forbidden';
  readonly probes: readonly Probe[];
  /** Forms of text: of each the likeliest texts count, as they are found under the weights (`likeliest.ts`). */
  readonly patterns?: readonly PatternProbe[];
  readonly atMost: number;
}

/** A text the model must not say: as the beginning of its answer to `prompt`, or without one as running text. */
export interface Probe {
  readonly prompt?: string;
  readonly text: string;
}

/** Every text of a form (`pattern.ts`), as the beginning of the answer to `prompt`, or without one as running text. */
export interface PatternProbe {
  readonly prompt?: string;
  readonly pattern: string;
}

/** Recall of one class of a task. */
export interface RecallConstraint extends Common {
  readonly kind: 'recall';
  readonly task: string;
  readonly label: string;
  readonly atLeast: number;
}

/** Largest difference of recall (the share of a group's examples that are right) between groups of labels or regions. */
export interface GapConstraint extends Common {
  readonly kind: 'gap';
  readonly task: string;
  readonly groups: Groups;
  readonly atMost: number;
}

/** Declared, hence public: which rows belong to a group is read off the row itself. */
export type Groups =
  | { readonly by: 'label'; readonly of: Readonly<Record<string, readonly string[]>> }
  | { readonly by: 'region'; readonly of: readonly string[] };

export type ConstraintSpec = KlConstraint | ForbiddenConstraint | RecallConstraint | GapConstraint;

/** What the constraint is called in a round's report. */
export function constraintName(spec: ConstraintSpec): string {
  switch (spec.kind) {
    case 'kl_to_base':
      return 'KL to the base';
    case 'forbidden':
      return 'probability of forbidden texts';
    case 'recall':
      return `recall of ${spec.label} (${spec.task})`;
    case 'gap':
      return `gap between ${groupNames(spec.groups).join(', ')} (${spec.task})`;
  }
}

export const groupNames = ({ of }: Groups): readonly string[] => (Array.isArray(of) ? of : Object.keys(of));

/** The bound, and on which side of it a value is allowed. */
export const boundOf = (spec: ConstraintSpec): { readonly bound: number; readonly side: 'at most' | 'at least' } =>
  spec.kind === 'recall' ? { bound: spec.atLeast, side: 'at least' } : { bound: spec.atMost, side: 'at most' };

/** undefined where the value is not known. */
export function isMet(spec: ConstraintSpec, value: number | undefined): boolean | undefined {
  if (value === undefined || Number.isNaN(value)) return undefined;
  const { bound, side } = boundOf(spec);
  return side === 'at most' ? value <= bound : value >= bound;
}

/**
 * How far a value is from its bound, positive where violated, on a scale on which 1 is a lot: relative to the bound, a probability
 * in the logarithm. Held within [-1, 2], so that one bad value does not decide the rest of a training.
 */
export function violation(spec: ConstraintSpec, value: number): number {
  const limited = (x: number): number => Math.max(-1, Math.min(2, x));
  switch (spec.kind) {
    case 'kl_to_base':
      return limited(value / spec.atMost - 1);
    case 'forbidden':
      // Two nats are a lot; half the probability is aimed at, so that the last step does not end just above.
      return limited(Math.log(Math.max(value, 1e-300) / (spec.atMost / 2)) / 2);
    case 'recall':
      return limited((spec.atLeast - value) / Math.max(0.05, 1 - spec.atLeast));
    case 'gap':
      return limited((value - spec.atMost) / Math.max(0.05, spec.atMost));
  }
}

/** A constraint's line in a round's work and verdict. */
export interface ConstraintReport {
  readonly constraint: string;
  readonly kind: ConstraintSpec['kind'];
  readonly bound: number;
  readonly side: 'at most' | 'at least';
  readonly before: number | null;
  readonly after: number | null;
  /** null: could not be measured (no held-out example of the class). */
  readonly met: boolean | null;
  readonly hard: boolean;
  /** What the figures were measured on. */
  readonly on: 'public text' | 'held-out users';
}

export function reportOf(
  spec: ConstraintSpec,
  before: number | undefined,
  after: number | undefined,
): ConstraintReport {
  return {
    constraint: constraintName(spec),
    kind: spec.kind,
    ...boundOf(spec),
    before: before ?? null,
    after: after ?? null,
    met: isMet(spec, after) ?? null,
    hard: spec.hard,
    on: isPublic(spec) ? 'public text' : 'held-out users',
  };
}

export type PublicConstraint = KlConstraint | ForbiddenConstraint;
export type CountedConstraint = RecallConstraint | GapConstraint;

/** Measured and trained for on public text alone, at no privacy cost. */
export const isPublic = (spec: ConstraintSpec): spec is PublicConstraint =>
  spec.kind === 'kl_to_base' || spec.kind === 'forbidden';
export const isCounted = (spec: ConstraintSpec): spec is CountedConstraint => !isPublic(spec);
