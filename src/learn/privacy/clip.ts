/** How a unit's gradient is clipped, and to what bound: fixed, or following a quantile of the norms. */
import { invalid, LearndError } from '../../base/errors.ts';
import { streamFor } from './noise.ts';

export type Clip =
  /** min(1, bound / (norm + 1e-6)): contributions keep their size up to the bound. */
  | { readonly kind: 'flat'; readonly bound: number }
  /** 1 / (norm + .01): every contribution has a norm just below 1, nothing to tune (arXiv 2206.07136). */
  | { readonly kind: 'auto-s' }
  /**
   * As flat, with a bound that follows a quantile of the norms (arXiv 1905.03871): after each step
   * R <- R exp(-rate (b - quantile)), b the noised share of the expected units whose norm was at most R. The plan holds R.
   * What the share costs is paid for by more noise on the gradients, so that a step costs what it would with a fixed bound.
   */
  | {
      readonly kind: 'quantile';
      /** The bound of the first step. */
      readonly initial: number;
      /** Default .5. */
      readonly quantile?: number;
      /** Default .2. */
      readonly rate?: number;
      /** Standard deviation of the noise on the number of units below the bound. Default the larger of a 20th of the expected units and 1.5 noise multipliers. */
      readonly countNoise?: number;
    };

/** Where an adaptive bound stands, for a checkpoint. As public as the weights: it follows from noised releases alone. */
export interface PlanState {
  /** Steps whose norms have been observed. */
  readonly step: number;
  readonly bound: number;
}

const FLAT_STABILITY = 1e-6;
const AUTO_S_STABILITY = 0.01;
const QUANTILE = { quantile: 0.5, rate: 0.2 } as const;
/** An adaptive bound stays within this factor of where it began. */
const FARTHEST = 1e6;

/** Factor for a gradient of this norm: the result is no longer than the bound, or than 1 for auto-s. */
export const clipFactor = (clip: Clip, bound: number, norm: number): number =>
  clip.kind === 'auto-s' ? 1 / (norm + AUTO_S_STABILITY) : Math.min(1, bound / (norm + FLAT_STABILITY));

/** @throws LearndError('invalid') naming the field */
export function checkClip(clip: Clip): void {
  if (clip.kind === 'flat' && !(Number.isFinite(clip.bound) && clip.bound > 0))
    throw invalid('clip.bound', `must be a finite number above 0, not ${clip.bound}`);
  if (clip.kind === 'quantile') checkQuantile(clip);
}

function checkQuantile({
  initial,
  quantile = 0.5,
  rate = 0.2,
  countNoise = 1,
}: Extract<Clip, { kind: 'quantile' }>): void {
  for (const [name, value] of Object.entries({ initial, rate, countNoise }))
    if (!(Number.isFinite(value) && value > 0))
      throw invalid(`clip.${name}`, `must be a finite number above 0, not ${value}`);
  if (!(quantile > 0 && quantile < 1)) throw invalid('clip.quantile', `must lie between 0 and 1, not ${quantile}`);
}

/** The bound of a step, and how it moves. */
export interface Bound {
  /** Of the gradients. */
  readonly gradientNoise: number;
  readonly parts?: Readonly<Record<string, number>>;
  at(): number;
  /** Refuses a step whose bound is not known (yet, or any more). */
  require(step: number): void;
  observe(step: number, norms: ArrayLike<number>): void;
  state(): PlanState | undefined;
  restore(state: PlanState): void;
}

const fixedBound = (bound: number, sigma: number): Bound => ({
  gradientNoise: sigma,
  at: () => bound,
  require: () => undefined,
  observe: () => undefined,
  state: () => undefined,
  restore: () => {
    throw new LearndError('conflict', 'the state of an adaptive bound was given to a plan with a fixed one');
  },
});

/**
 * One unit changes the gradients' sum by at most R and the count (each unit giving +1/2 or -1/2) by 1/2. In units of their noise that
 * is 1 / z_g and 1 / (2 sigma_b), so a step is one Gaussian release with 1 / z^2 = 1 / z_g^2 + 1 / (2 sigma_b)^2: z is what is
 * accounted, and z_g = (z^-2 - (2 sigma_b)^-2)^(-1/2) is the noise on the gradients.
 */
function quantileBound(
  clip: Extract<Clip, { kind: 'quantile' }>,
  context: { sigma: number; divisor: number; seed: Uint8Array },
): Bound {
  const { sigma, divisor, seed } = context;
  const quantile = clip.quantile ?? QUANTILE.quantile;
  const rate = clip.rate ?? QUANTILE.rate;
  const countNoise = clip.countNoise ?? Math.max(divisor / 20, 1.5 * sigma);
  if (!(sigma < 2 * countNoise))
    throw invalid(
      'clip.countNoise',
      `must be above half the noise multiplier (${sigma / 2}), not ${countNoise}: the count alone would cost all there is`,
    );
  const gradientNoise = (sigma ** -2 - (2 * countNoise) ** -2) ** -0.5;
  let bound = clip.initial;
  let next = 0;
  return {
    gradientNoise,
    parts: Object.freeze({ gradients: gradientNoise, 'norms-below-bound': 2 * countNoise }),
    at: () => bound,
    require: step => {
      if (step !== next)
        throw new LearndError(
          'internal',
          step > next
            ? `the bound of step ${step} is not known before the norms of step ${step - 1} have been observed`
            : `the norms of step ${step} have been observed: its bound has moved on`,
        );
    },
    observe: (step, norms) => {
      let sum = 0;
      for (let i = 0; i < norms.length; i++)
        if (Number.isFinite(norms[i]!) && norms[i]! >= 0) sum += norms[i]! <= bound ? 0.5 : -0.5;
      const noise = streamFor(seed, `count:${step}`).normal(1, countNoise)[0]!;
      const share = (sum + noise) / divisor + 0.5;
      const moved = bound * Math.exp(-rate * (share - quantile));
      bound = Math.min(clip.initial * FARTHEST, Math.max(clip.initial / FARTHEST, moved));
      next = step + 1;
    },
    state: () => ({ step: next, bound }),
    restore: state => {
      next = state.step;
      bound = state.bound;
    },
  };
}

/** The bound of a plan's steps. `sigma`: noise multiplier of gradients and count together. */
export function boundOf(clip: Clip, context: { sigma: number; divisor: number; seed: Uint8Array }): Bound {
  if (clip.kind === 'quantile') return quantileBound(clip, context);
  return fixedBound(clip.kind === 'flat' ? clip.bound : 1, context.sigma);
}
