/**
 * Epsilon of what was released, and the noise that keeps it below a target. Everything here is an upper bound: `prv` (default)
 * is the smallest of the numerical composition, the Renyi bound, and, where nothing is sampled, the exact Gaussian curve.
 */
import { invalid, LearndError } from '../../base/errors.ts';
import { gaussianEpsilon } from './gaussian.ts';
import {
  checkDelta,
  checkEpsilon,
  checkMechanism,
  checkSampleRate,
  checkSteps,
  type Mechanism,
  merged,
} from './mechanism.ts';
import { prvEpsilon } from './prv.ts';
import { rdpEpsilon } from './rdp.ts';

export type { Mechanism } from './mechanism.ts';

export type Accountant = 'rdp' | 'prv';

function checkAccountant(accountant: string): asserts accountant is Accountant {
  if (accountant !== 'rdp' && accountant !== 'prv')
    throw invalid('accountant', `must be rdp or prv, not ${JSON.stringify(accountant)}`);
}

/** Releases without sampling compose to one Gaussian exactly: fewer steps for the numerical composition, and no error. */
function foldGaussians(mechanisms: readonly Mechanism[]): { sampled: Mechanism[]; mu: number } {
  const sampled = mechanisms.filter(m => m.sample_rate < 1);
  const mu = Math.sqrt(
    mechanisms
      .filter(m => m.sample_rate === 1)
      .reduce((sum, m) => sum + m.steps / (m.noise_multiplier * m.noise_multiplier), 0),
  );
  return { sampled, mu };
}

/**
 * Upper bound on the epsilon spent, at delta, by all the mechanisms together (add/remove one unit), in whatever order they ran.
 * @param mechanisms noise multiplier, sampling rate and steps of each; none: 0
 * @param accountant `prv` (default, tighter; falls back to the Renyi bound where its numbers don't carry) or `rdp`
 * @throws LearndError code invalid, naming the field
 */
export function epsilon(mechanisms: readonly Mechanism[], delta: number, accountant: Accountant = 'prv'): number {
  checkDelta(delta);
  checkAccountant(accountant);
  mechanisms.forEach((m, i) => {
    checkMechanism(m, mechanisms.length > 1 ? `[${i}].` : '');
  });
  const spent = merged(mechanisms);
  if (spent.length === 0) return 0;
  const renyi = rdpEpsilon(spent, delta);
  if (accountant === 'rdp') return renyi;
  const { sampled, mu } = foldGaussians(spent);
  if (sampled.length === 0) return Math.min(renyi, gaussianEpsilon(mu, delta));
  const folded = mu > 0 ? [...sampled, { noise_multiplier: 1 / mu, sample_rate: 1, steps: 1 }] : sampled;
  try {
    return Math.min(renyi, prvEpsilon(folded, delta));
  } catch (error) {
    if (error instanceof LearndError && error.code === 'internal') return renyi;
    throw error;
  }
}

export interface NoiseRequest {
  /** Target for the composition of `prior` and the steps asked for. */
  readonly epsilon: number;
  readonly delta: number;
  readonly sampleRate: number;
  readonly steps: number;
  readonly prior?: readonly Mechanism[];
  readonly accountant?: Accountant;
}

/** Relative precision of the noise found: it costs at most about 1e-4 of epsilon. */
const NOISE_TOLERANCE = 5e-5;
const MAX_NOISE = 1e6;

/**
 * Smallest noise multiplier (to 5e-5 relative, from above) at which `prior` and the new steps together spend at most epsilon.
 * @throws LearndError code budget_exhausted when `prior` leaves nothing to spend
 */
export function noiseMultiplier(request: NoiseRequest): number {
  const { delta, sampleRate, steps, prior = [], accountant = 'prv' } = request;
  checkEpsilon(request.epsilon);
  checkDelta(delta);
  checkSampleRate(sampleRate);
  checkSteps(steps);
  if (steps === 0) throw invalid('steps', 'must be at least 1: without steps there is nothing to add noise to');
  if (sampleRate === 0) throw invalid('sample_rate', 'must be above 0: at 0 nothing is ever used');
  const target = request.epsilon;
  const total = (sigma: number, by: Accountant): number =>
    epsilon([...prior, { noise_multiplier: sigma, sample_rate: sampleRate, steps }], delta, by);

  const spent = epsilon(prior, delta, accountant);
  if (spent >= target) throw exhausted(spent, target);

  // The Renyi bound is cheap and never below the one reported, so it gives a first noise that is surely enough.
  let high = bisect(sigma => total(sigma, 'rdp') <= target, 0.5, 0.005);
  if (high === undefined) {
    if (accountant === 'rdp' || total(MAX_NOISE, accountant) > target) throw exhausted(spent, target);
    high = MAX_NOISE;
  }
  if (accountant === 'rdp') {
    return bisect(sigma => total(sigma, 'rdp') <= target, high, NOISE_TOLERANCE) ?? high;
  }
  return refine(sigma => total(sigma, accountant), target, high);
}

function exhausted(spent: number, target: number): LearndError {
  const why = spent > 0 ? `epsilon ${spent.toFixed(4)} is spent already` : 'no amount of noise is shown to be enough';
  return new LearndError('budget_exhausted', `${why}: ${target} leaves too little for these steps`, {
    field: 'epsilon',
    hint: 'Raise the budget, take fewer steps, or a smaller sampling rate.',
    retriable: false,
  });
}

/** Smallest x, to the relative tolerance and from above, where `enough` (monotone) holds; undefined if not up to MAX_NOISE. */
function bisect(enough: (x: number) => boolean, start: number, tolerance: number): number | undefined {
  let high = start;
  while (!enough(high)) {
    high *= 2;
    if (high > MAX_NOISE) return undefined;
  }
  let low = high / 2;
  while (low > 1e-4 && enough(low)) {
    high = low;
    low /= 2;
  }
  while (high / low - 1 > tolerance) {
    const middle = Math.sqrt(low * high);
    if (enough(middle)) high = middle;
    else low = middle;
  }
  return high;
}

/** Regula falsi (Illinois) on log epsilon over log noise, which is close to a straight line: few costly evaluations. */
function refine(spend: (sigma: number) => number, target: number, enough: number): number {
  const f = (sigma: number): number => Math.log(Math.max(spend(sigma), 1e-12) / target);
  let high = enough;
  let fHigh = f(high);
  let low = high;
  let fLow = fHigh;
  while (fLow <= 0) {
    high = low;
    fHigh = fLow;
    low *= 0.85;
    if (low < 1e-4) return high;
    fLow = f(low);
  }
  let side = 0;
  for (let i = 0; i < 60 && high / low - 1 > NOISE_TOLERANCE; i++) {
    const guess = Math.log(high) + ((Math.log(low) - Math.log(high)) * fHigh) / (fHigh - fLow);
    // A nudge towards the safe side lets one more evaluation close the bracket from both ends.
    const middle = Math.exp(guess + (side > 0 ? -0.4 : 0.4) * NOISE_TOLERANCE);
    const fMiddle = f(Math.min(high, Math.max(low, middle)));
    if (fMiddle <= 0) {
      high = Math.min(high, middle);
      fHigh = fMiddle;
      if (side === 1) fLow /= 2;
      side = 1;
    } else {
      low = Math.max(low, middle);
      fLow = fMiddle;
      if (side === -1) fHigh /= 2;
      side = -1;
    }
  }
  return high;
}
