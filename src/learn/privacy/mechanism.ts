/** What the accountants count, and the checks on it. */
import { invalid } from '../../base/errors.ts';

/**
 * `steps` releases of a Gaussian mechanism: noise of standard deviation noise_multiplier times the sensitivity, on units
 * drawn by Poisson sampling at sample_rate (1: every unit, every step). Neighbours differ by adding or removing one unit.
 *
 * This is also what the ledger holds, so that any accountant can replay it. What is released together on one sample counts as ONE
 * mechanism with the multiplier (sum of 1 / z_i^2)^(-1/2); `parts` then says what it is made of, for whoever reads the ledger.
 */
export interface Mechanism {
  /** Absent: sampled-gaussian. A kind this version does not know is refused, because leaving it out would count too little. */
  readonly kind?: 'sampled-gaussian';
  readonly noise_multiplier: number;
  readonly sample_rate: number;
  readonly steps: number;
  /** Noise multiplier of each release that a step makes, by what it releases: at least two. */
  readonly parts?: Readonly<Record<string, number>>;
}

/** Multiplier of Gaussian releases made together on the same sample: 1 / z^2 adds up. */
export const joined = (multipliers: readonly number[]): number =>
  multipliers.reduce((sum, z) => sum + 1 / (z * z), 0) ** -0.5;

/** Parts are rounded in storage, never the multiplier that is accounted. */
const PARTS_TOLERANCE = 1e-9;

export function checkMechanism(m: Mechanism, at = ''): void {
  if (m.kind !== undefined && m.kind !== 'sampled-gaussian')
    throw invalid(`${at}kind`, `this version accounts for sampled-gaussian, not for ${JSON.stringify(m.kind)}`);
  if (!(Number.isFinite(m.noise_multiplier) && m.noise_multiplier > 0))
    throw invalid(`${at}noise_multiplier`, `must be a finite number above 0, not ${m.noise_multiplier}`);
  checkSampleRate(m.sample_rate, `${at}sample_rate`);
  checkSteps(m.steps, `${at}steps`);
  if (m.parts === undefined) return;
  const together = joined(Object.values(m.parts));
  if (!(m.noise_multiplier <= together * (1 + PARTS_TOLERANCE)))
    throw invalid(`${at}parts`, `compose to ${together}, which is less noise than the ${m.noise_multiplier} stated`);
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
    const { noise_multiplier, sample_rate } = m;
    byKind.set(key, { noise_multiplier, sample_rate, steps: m.steps + (byKind.get(key)?.steps ?? 0) });
  }
  return [...byKind.values()];
}
