/** What the accountants count, and the checks on it. */
import { invalid } from '../../base/errors.ts';

/**
 * `steps` releases of a Gaussian mechanism: noise of standard deviation noise_multiplier times the sensitivity, on units
 * drawn by Poisson sampling at sample_rate (1: every unit, every step). Neighbours differ by adding or removing one unit.
 */
export interface Mechanism {
  readonly noise_multiplier: number;
  readonly sample_rate: number;
  readonly steps: number;
}

export function checkMechanism(m: Mechanism, at = ''): void {
  if (!(Number.isFinite(m.noise_multiplier) && m.noise_multiplier > 0))
    throw invalid(`${at}noise_multiplier`, `must be a finite number above 0, not ${m.noise_multiplier}`);
  checkSampleRate(m.sample_rate, `${at}sample_rate`);
  checkSteps(m.steps, `${at}steps`);
}

export function checkSampleRate(q: number, field = 'sample_rate'): void {
  if (!(q >= 0 && q <= 1)) throw invalid(field, `must be a probability from 0 to 1, not ${q}`);
}

export function checkSteps(steps: number, field = 'steps'): void {
  if (!(Number.isSafeInteger(steps) && steps >= 0))
    throw invalid(field, `must be a whole number, 0 or more, not ${steps}`);
}

export function checkDelta(delta: number): void {
  if (!(delta > 0 && delta < 1)) throw invalid('delta', `must lie strictly between 0 and 1, not ${delta}`);
}

export function checkEpsilon(epsilon: number): void {
  if (!(Number.isFinite(epsilon) && epsilon > 0))
    throw invalid('epsilon', `must be a finite number above 0, not ${epsilon}`);
}

/** Same noise and rate counted together; what spends nothing dropped. */
export function merged(mechanisms: readonly Mechanism[]): Mechanism[] {
  const byKind = new Map<string, Mechanism>();
  for (const m of mechanisms) {
    if (m.steps === 0 || m.sample_rate === 0) continue;
    const key = `${m.noise_multiplier}/${m.sample_rate}`;
    byKind.set(key, { ...m, steps: m.steps + (byKind.get(key)?.steps ?? 0) });
  }
  return [...byKind.values()];
}
