import type { Constraint } from '../../../events/actions.ts';
import { personalProbes } from './personal.ts';
import type { ConstraintSpec } from './spec.ts';

export type { ConstraintSpec } from './spec.ts';

/** A constraint as the policy declares it, as the training takes it. */
export function declaredConstraint(constraint: Constraint): ConstraintSpec {
  const { hard } = constraint;
  if ('kl_to_base' in constraint) return { kind: 'kl_to_base', atMost: constraint.kl_to_base, hard };
  if ('forbidden' in constraint) {
    const { texts, patterns = [], personal = [] } = constraint.forbidden;
    const forms = [
      ...patterns.map(pattern => (typeof pattern === 'string' ? { pattern } : pattern)),
      ...personal.flatMap(personalProbes),
    ];
    return {
      kind: 'forbidden',
      probes: (texts ?? []).map(text => (typeof text === 'string' ? { text } : text)),
      ...(forms.length > 0 && { patterns: forms }),
      atMost: constraint.probability,
      hard,
    };
  }
  if ('recall' in constraint) return { kind: 'recall', ...constraint.recall, atLeast: constraint.at_least, hard };
  const { task, labels, regions } = constraint.gap;
  const groups =
    labels === undefined ? ({ by: 'region', of: regions! } as const) : ({ by: 'label', of: labels } as const);
  return { kind: 'gap', task, groups, atMost: constraint.at_most, hard };
}
