import type { Gate, GateFigures, GateLine, SignalValue } from '../../events/signals.ts';
import { type Expression, show, type Values, withValues } from './expression.ts';
import type { Policy } from './policy.ts';

const FIGURES = [
  'perplexity',
  'f1',
  'parameters',
  'size_mb',
  'tokens_per_second',
  'version',
  'age_hours',
  'epsilon',
] as const;

/** A version's card as the signals of a group: `champion.f1`, … */
const grouped = (group: 'champion' | 'candidate', figures: GateFigures): Record<string, SignalValue> =>
  Object.fromEntries(FIGURES.map(name => [`${group}.${name}`, finite(figures[name])]));

/** A figure that is not a number was not measured. */
const finite = (value: number | null | undefined): number | null =>
  value === null || value === undefined || !Number.isFinite(value) ? null : value;

/**
 * The gate of a policy as a function of two cards. A line that names a figure the champion has and the candidate lacks
 * fails (the candidate lost it, or it could not be measured); any other figure that is missing makes the line not apply.
 * Admitted: no line failed.
 */
export function compileGate(policy: Pick<Policy, 'gate'>): Gate {
  return (champion, candidate, signals = {}) => {
    const values: Values = { ...signals, ...grouped('champion', champion), ...grouped('candidate', candidate) };
    const lines = policy.gate.map(line => judge(line, values));
    return { admitted: lines.every(line => line.result !== 'fail'), lines };
  };
}

function judge(line: Expression, values: Values): GateLine {
  const named = Object.fromEntries(line.signals.map(name => [name, values[name] ?? null]));
  const outcome = line.evaluate(values);
  const as = (result: GateLine['result'], reason: string): GateLine => ({
    expression: line.text,
    result,
    values: named,
    reason,
  });
  if (outcome === true) return as('pass', withValues(line, values));
  if (outcome === false) return as('fail', withValues(line, values));
  const missing = line.signals.filter(name => named[name] === null);
  const lost = missing.filter(name => {
    const [group, figure] = name.split('.') as [string, string];
    const before = values[`champion.${figure}`];
    return group === 'candidate' && before !== null && before !== undefined;
  });
  if (lost.length > 0)
    return as(
      'fail',
      lost
        .map(
          name =>
            `${name} could not be measured while ${name.replace('candidate', 'champion')} = ${show(values[name.replace('candidate', 'champion')])}`,
        )
        .join(', '),
    );
  return as(
    'does not apply',
    `${missing.join(', ')} ${missing.length === 1 ? 'is' : 'are'} not known in this deployment`,
  );
}
