/**
 * A DP-SGD plan: who is sampled, how gradients are clipped, what noise is added, what the sum is divided by, and what all that
 * costs, made together and frozen, so that no two of them can disagree.
 *
 * One step of training with a plan (a unit is a user, or an example):
 * ```
 * sum = 0
 * for unit of plan.sample(step):            // may be empty: the step is taken all the same
 *   g = the unit's gradient                 // user: the mean over its (at most so many) examples
 *   c = plan.clipFactor(norm(g))            // 0 where the norm is not finite: leave such a unit out (0 * NaN is NaN)
 *   if (c > 0) sum += c * g
 * sum += plan.noise(step, sum.length)       // once a step, however many microbatches there were
 * update(sum / plan.divisor)                // a public constant, never the number of units drawn
 * ```
 * Where parameters come in several tensors: norm over all of them, and `plan.noise(step, n, name)` for each by its own name.
 */
import { randomBytes } from 'node:crypto';
import { invalid, LearndError } from '../../base/errors.ts';
import { epsilon as accountedEpsilon, noiseMultiplier as calibrate } from './accountant.ts';
import { checkMechanism, checkSampleRate, checkSteps, type Mechanism } from './mechanism.ts';
import { poissonSample, SEED_BYTES, streamFor } from './noise.ts';

export type Clip =
  /** min(1, bound / (norm + 1e-6)): contributions keep their size up to the bound. */
  | { readonly kind: 'flat'; readonly bound: number }
  /** 1 / (norm + .01): every contribution has a norm just below 1, nothing to tune (arXiv 2206.07136). */
  | { readonly kind: 'auto-s' };

export interface PlanRequest {
  /** How many units there are in the training view. Private: it only bounds the indices drawn. */
  readonly units: number;
  /** How many units the deployment expects, a PUBLIC constant (never the count above): the divisor is sampleRate times it. */
  readonly expectedUnits: number;
  /** Probability with which each unit takes part in a step, from public constants. Default 1: every unit, every step. */
  readonly sampleRate?: number;
  readonly steps: number;
  readonly delta: number;
  /** Target for `prior` and this plan together. Either this or noiseMultiplier. */
  readonly epsilon?: number;
  /** A noise fixed before (a plan made again from its stored request). */
  readonly noiseMultiplier?: number;
  readonly clip: Clip;
  /** What was released before on the same units. */
  readonly prior?: readonly Mechanism[];
  readonly unit: 'user' | 'example';
  /** 32 secret bytes of this plan alone: the same seed replays the same samples and noise. Default: from the system's generator. */
  readonly seed?: Uint8Array;
}

export interface DpPlan {
  readonly unit: 'user' | 'example';
  readonly units: number;
  readonly sampleRate: number;
  readonly steps: number;
  readonly delta: number;
  readonly clip: Clip;
  /** Neighbours differ by adding or removing one unit. */
  readonly neighbours: 'add-remove';
  readonly noiseMultiplier: number;
  /** Largest norm a unit adds to the sum. */
  readonly sensitivity: number;
  /** Expected units in a step: sampleRate times expectedUnits. */
  readonly divisor: number;
  /** What this plan releases, for the ledger. */
  readonly mechanisms: readonly Mechanism[];
  /** Spent by `prior` and this plan together, at delta. */
  readonly epsilon: number;
  /** Spent by this plan alone, at delta. */
  readonly ownEpsilon: number;
  /** Indices of the units drawn for a step. The same whenever asked. */
  sample(step: number): number[];
  /** Factor for a unit's gradient (or release) of this norm; 0 where the norm is not finite, so such a unit counts as absent. */
  clipFactor(norm: number): number;
  /**
   * Noise for the SUM of a step: n numbers of standard deviation noiseMultiplier * sensitivity.
   * @param part names the tensor where there are several; asking twice for one part of one step is refused, because the same
   *   noise added twice cancels out for whoever subtracts the results
   */
  noise(step: number, n: number, part?: string): Float32Array;
}

const FLAT_STABILITY = 1e-6;
const AUTO_S_STABILITY = 0.01;

function checkRequest(request: PlanRequest): void {
  checkSteps(request.units, 'units');
  if (!(Number.isFinite(request.expectedUnits) && request.expectedUnits > 0))
    throw invalid('expectedUnits', `must be a public number above 0, not ${request.expectedUnits}`);
  checkSampleRate(request.sampleRate ?? 1, 'sampleRate');
  if (request.sampleRate === 0) throw invalid('sampleRate', 'must be above 0: at 0 nothing is ever drawn');
  checkSteps(request.steps);
  if (request.steps === 0) throw invalid('steps', 'must be at least 1');
  if ((request.epsilon === undefined) === (request.noiseMultiplier === undefined))
    throw invalid('epsilon', 'give either epsilon or noiseMultiplier');
  if (request.clip.kind === 'flat' && !(Number.isFinite(request.clip.bound) && request.clip.bound > 0))
    throw invalid('clip.bound', `must be a finite number above 0, not ${request.clip.bound}`);
  if (request.seed !== undefined && request.seed.length !== SEED_BYTES)
    throw invalid('seed', `must be ${SEED_BYTES} bytes, not ${request.seed.length}`);
}

/**
 * Makes a plan; the noise is the smallest that keeps `prior` and the plan together at or below `epsilon`.
 * @throws LearndError invalid (names the field) or budget_exhausted (prior leaves too little)
 */
export function makePlan(request: PlanRequest): DpPlan {
  checkRequest(request);
  const { units, expectedUnits, steps, delta, unit } = request;
  const sampleRate = request.sampleRate ?? 1;
  const prior = request.prior ?? [];
  const clip: Clip = Object.freeze({ ...request.clip });
  const sigma =
    request.noiseMultiplier ?? calibrate({ epsilon: request.epsilon!, delta, sampleRate, steps, prior: [...prior] });
  const own: Mechanism = Object.freeze({ noise_multiplier: sigma, sample_rate: sampleRate, steps });
  checkMechanism(own);
  const sensitivity = clip.kind === 'flat' ? clip.bound : 1;
  const seed = Uint8Array.from(request.seed ?? randomBytes(SEED_BYTES));
  const handedOut = new Set<string>();

  const checkStep = (step: number): void => {
    if (!(Number.isInteger(step) && step >= 0 && step < steps))
      throw new LearndError('internal', `step ${step} is not one of the ${steps} that were accounted for`);
  };

  const ownEpsilon = accountedEpsilon([own], delta);
  return Object.freeze({
    unit,
    units,
    sampleRate,
    steps,
    delta,
    clip,
    neighbours: 'add-remove' as const,
    noiseMultiplier: sigma,
    sensitivity,
    divisor: sampleRate * expectedUnits,
    mechanisms: Object.freeze([own]),
    epsilon: prior.length === 0 ? ownEpsilon : accountedEpsilon([...prior, own], delta),
    ownEpsilon,

    sample(step: number): number[] {
      checkStep(step);
      if (sampleRate === 1) return Array.from({ length: units }, (_, i) => i);
      return poissonSample(units, sampleRate, streamFor(seed, `sample:${step}`));
    },

    clipFactor(norm: number): number {
      if (!Number.isFinite(norm) || norm < 0) return 0;
      return clip.kind === 'flat' ? Math.min(1, clip.bound / (norm + FLAT_STABILITY)) : 1 / (norm + AUTO_S_STABILITY);
    },

    noise(step: number, n: number, part = ''): Float32Array {
      checkStep(step);
      const purpose = `noise:${step}:${part}`;
      if (handedOut.has(purpose))
        throw new LearndError('internal', `noise of step ${step}${part && `, ${part},`} was handed out already`);
      handedOut.add(purpose);
      return streamFor(seed, purpose).normal(n, sigma * sensitivity);
    },
  });
}
