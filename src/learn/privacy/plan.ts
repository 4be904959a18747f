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
 * plan.observe(step, norms of those units)  // moves an adaptive bound; with a fixed one it only checks
 * update(sum / plan.divisor)                // a public constant, never the number of units drawn
 * ```
 * Where parameters come in several tensors: norm over all of them, and `plan.noise(step, n, name)` for each by its own name.
 */
import { randomBytes } from 'node:crypto';
import { invalid, LearndError } from '../../base/errors.ts';
import type { Tensor } from '../tensor/backend.ts';
import { epsilon as accountedEpsilon, noiseMultiplier as calibrate } from './accountant.ts';
import { boundOf, type Clip, checkClip, clipFactor, type PlanState } from './clip.ts';
import { checkMechanism, checkSampleRate, checkSteps, type Mechanism } from './mechanism.ts';
import { keyFor, poissonSample, SEED_BYTES, streamFor } from './noise.ts';
import { expectNoise, type NoisePart, takeNoise, takeNoiseTensor } from './noise-ahead.ts';

export type { Clip, PlanState } from './clip.ts';

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
  /**
   * Share of a step's privacy (of 1 / z^2) for a sum of one vector of length at most 1 a unit drawn, released beside the gradient:
   * what share of a unit's examples is right, by group (constraints). Default 0: no such release.
   */
  readonly countShare?: number;
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
  /** Accounted for: of all that a step releases, together. */
  readonly noiseMultiplier: number;
  /** Of the gradients alone: more than the above where a step also releases how many norms were below the bound. */
  readonly gradientNoise: number;
  /** Largest norm a unit adds to the sum; with an adaptive bound, in the step that is being made. */
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
   * Noise for the SUM of a step: n numbers of standard deviation gradientNoise * sensitivity. With an adaptive bound steps are made in
   * order: the noise of a step is refused until the norms of the one before it were observed, because its bound is not known.
   * @param part names the tensor where there are several; asking twice for one part of one step is refused, because the same
   *   noise added twice cancels out for whoever subtracts the results
   */
  noise(step: number, n: number, part?: string): Float32Array;
  /**
   * Noise for the MEAN of a step, its sum divided by `divisor`: the numbers of `noise` so divided, as a tensor [n] that the caller
   * disposes. One or the other, once. Where clip factors are divided too, the sum needs no pass of its own for it.
   */
  meanNoise(step: number, n: number, part?: string): Tensor;
  /**
   * Says what `meanNoise` the step that is about to be made will ask for, in its order, so that it is made beside the step's passes.
   * Changes no number and hands nothing out: a matter of time alone.
   */
  expectNoise(step: number, parts: Iterable<readonly [part: string, n: number]>): void;
  /** Noise for the sum of the units' vectors of length at most 1, and its standard deviation; once a step. Needs `countShare`. */
  countNoise(step: number, n: number): { readonly noise: Float32Array; readonly std: number };
  /**
   * The norms of the units drawn for a step, as they were given to clipFactor; once a step, after its noise. Norms that are not finite
   * count as absent.
   */
  observe(step: number, norms: ArrayLike<number>): void;
  /** For a checkpoint between two steps. undefined where nothing moves. */
  state(): PlanState | undefined;
  /** Takes up what an interrupted plan of the same request and seed said, before anything was handed out. */
  restore(state: PlanState | undefined): void;
}

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
  checkClip(request.clip);
  const { countShare = 0 } = request;
  if (!(countShare >= 0 && countShare < 1)) throw invalid('countShare', `must be from 0 to below 1, not ${countShare}`);
  if (request.seed !== undefined && request.seed.length !== SEED_BYTES)
    throw invalid('seed', `must be ${SEED_BYTES} bytes, not ${request.seed.length}`);
}

/**
 * For what is released once, over every unit.
 * @param what begins the error, such as "the vocabulary bias" @throws LearndError('invalid')
 */
export function requireOneRelease(
  plan: Pick<DpPlan, 'steps' | 'sampleRate' | 'units'>,
  units: number,
  what: string,
): void {
  if (plan.steps !== 1 || plan.sampleRate !== 1)
    throw invalid('plan', `${what} is one release over every unit: a plan of 1 step at sample rate 1`);
  if (plan.units !== units) throw invalid('units', `the plan was made for ${plan.units} units, there are ${units}`);
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
  const seed = Uint8Array.from(request.seed ?? randomBytes(SEED_BYTES));
  const divisor = sampleRate * expectedUnits;
  checkMechanism({ noise_multiplier: sigma, sample_rate: sampleRate, steps });
  const { countShare = 0 } = request;
  const rest = sigma / Math.sqrt(1 - countShare);
  const bound = boundOf(clip, { sigma: rest, divisor, seed });
  const { gradientNoise } = bound;
  const countStd = sigma / Math.sqrt(countShare);
  const parts =
    countShare === 0
      ? bound.parts
      : Object.freeze({ ...(bound.parts ?? { gradients: gradientNoise }), outcomes: countStd });
  const own: Mechanism = Object.freeze({
    noise_multiplier: sigma,
    sample_rate: sampleRate,
    steps,
    ...(parts && { parts }),
  });
  checkMechanism(own);
  const handedOut = new Set<string>();

  const checkStep = (step: number): void => {
    if (!(Number.isInteger(step) && step >= 0 && step < steps))
      throw new LearndError('internal', `step ${step} is not one of the ${steps} that were accounted for`);
  };

  const ownEpsilon = accountedEpsilon([own], delta);
  /** What a part of a step's noise follows from. */
  const noisePart = (step: number, part: string, n: number, over: number): NoisePart => {
    checkStep(step);
    bound.require(step);
    return { key: keyFor(seed, `noise:${step}:${part}`), n, std: (gradientNoise * bound.at()) / over };
  };
  /** The same, once. */
  const noiseOnce = (step: number, n: number, part: string, over: number): NoisePart => {
    const own = noisePart(step, part, n, over);
    const purpose = `noise:${step}:${part}`;
    if (handedOut.has(purpose))
      throw new LearndError('internal', `noise of step ${step}${part && `, ${part},`} was handed out already`);
    handedOut.add(purpose);
    return own;
  };
  return Object.freeze({
    unit,
    units,
    sampleRate,
    steps,
    delta,
    clip,
    neighbours: 'add-remove' as const,
    noiseMultiplier: sigma,
    gradientNoise,
    get sensitivity(): number {
      return bound.at();
    },
    divisor,
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
      return clipFactor(clip, bound.at(), norm);
    },

    noise: (step: number, n: number, part = ''): Float32Array => takeNoise(noiseOnce(step, n, part, 1)),

    meanNoise: (step: number, n: number, part = ''): Tensor => takeNoiseTensor(noiseOnce(step, n, part, divisor)),

    expectNoise(step: number, parts: Iterable<readonly [string, number]>): void {
      expectNoise(Array.from(parts, ([part, n]) => noisePart(step, part, n, divisor)));
    },

    countNoise(step: number, n: number) {
      checkStep(step);
      if (countShare === 0) throw new LearndError('internal', 'the plan has no share for a sum beside the gradient');
      const purpose = `outcomes:${step}`;
      if (handedOut.has(purpose))
        throw new LearndError('internal', `noise of step ${step}, outcomes, was handed out already`);
      handedOut.add(purpose);
      return { noise: streamFor(seed, purpose).normal(n, countStd), std: countStd };
    },

    observe(step: number, norms: ArrayLike<number>): void {
      checkStep(step);
      bound.require(step);
      bound.observe(step, norms);
    },

    state: () => bound.state(),

    restore(state: PlanState | undefined): void {
      if (state === undefined && bound.state() === undefined) return;
      if (state === undefined || !(Number.isFinite(state.bound) && state.bound > 0))
        throw new LearndError(
          'corrupt',
          'the state of an adaptive bound is missing: the steps after it cannot be replayed',
        );
      checkSteps(state.step, 'state.step');
      if (handedOut.size > 0)
        throw new LearndError('internal', 'a plan that has handed out noise cannot be set to another step');
      bound.restore(state);
    },
  });
}
