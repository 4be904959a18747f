/**
 * Lower bounds on epsilon from the scores of canaries: what the mechanism that made the release cannot be better than, with
 * confidence 1 - significance. A bound above the claim refutes it; one below proves nothing.
 */
import { invalid } from '../../../base/errors.ts';
import { gaussianDelta, gaussianEpsilon } from '../gaussian.ts';
import { checkDelta } from '../mechanism.ts';
import { SecureStream } from '../noise.ts';
import { normalCdf, normalQuantile } from '../special.ts';
import { binomialAtLeast, logBinomial, lowerBound, upperBound } from './binomial.ts';
import { type Canary, type Point, rocCurve } from './scores.ts';

/** How the threshold is chosen without spoiling the confidence. */
export type Choice =
  /** Every vertex of the ROC curve's hull, each at its share of the significance. As jax-privacy does it. */
  | { readonly kind: 'bonferroni' }
  /** The best threshold on a part of the canaries (default half), the bound from the rest. */
  | { readonly kind: 'split'; readonly share?: number; readonly seed: Uint8Array }
  /**
   * The top so many scores are taken to have been in, for each number given, each at its share of the significance. The numbers are
   * fixed before anything is scored, so this is the strictest of the three.
   */
  | { readonly kind: 'guesses'; readonly counts: readonly number[] };

export interface BoundOptions {
  /** Chance that the bound is above the truth. Default .05. */
  readonly significance?: number;
  readonly delta: number;
  /** Default bonferroni. */
  readonly choice?: Choice;
}

/** Bound from so many right ones among so many guesses; at least `from`. */
type Bound = (m: number, guesses: number, right: number, significance: number, delta: number, from: number) => number;

/** log sigmoid(x) without losing it near 1. */
const logSigmoid = (x: number): number => -Math.log1p(Math.exp(-x));

/**
 * Probability of at least `right` of `guesses` under (epsilon, delta)-DP, at most (arXiv 2305.08846, theorem 5.2):
 * beta + 2 m delta max_i (P[Bin >= right - i] - beta) / i, Bin of success probability sigmoid(epsilon).
 */
export function oneRunPValue(m: number, guesses: number, right: number, epsilon: number, delta: number): number {
  const logP = logSigmoid(epsilon);
  const log1P = logP - epsilon;
  const beta = binomialAtLeast(right, guesses, Math.exp(logP));
  if (delta === 0) return beta;
  let sum = 0;
  let alpha = 0;
  for (let i = 1; i <= right; i++) {
    const term = Math.exp(logBinomial(right - i, guesses, logP, log1P));
    // The terms rise to their peak and fall: once one is below the mean so far, the mean has had its largest value.
    if (term < alpha) break;
    sum += term;
    alpha = sum / i;
  }
  return Math.min(1, beta + 2 * m * delta * alpha);
}

/** Largest x >= from at which `refuted` holds, `from` where it does not hold there. */
function largest(refuted: (x: number) => boolean, from: number): number {
  if (!refuted(from)) return from;
  let low = from;
  let high = Math.max(1, 2 * from);
  while (refuted(high)) {
    low = high;
    high *= 2;
    if (high > 1e4) return low;
  }
  while (high - low > 1e-7) {
    const middle = (low + high) / 2;
    if (refuted(middle)) low = middle;
    else high = middle;
  }
  return low;
}

const oneRun: Bound = (m, guesses, right, significance, delta, from) =>
  largest(epsilon => oneRunPValue(m, guesses, right, epsilon, delta) <= significance, from);

/** mu of the Gaussian release that is exactly (epsilon, delta)-DP. */
function muOf(epsilon: number, delta: number): number {
  let high = 1;
  while (gaussianDelta(high, epsilon) < delta) high *= 2;
  let low = 0;
  for (let i = 0; i < 60; i++) {
    const middle = (low + high) / 2;
    if (gaussianDelta(middle, epsilon) > delta) high = middle;
    else low = middle;
  }
  return low;
}

/** Whether so many right guesses refute that the release is a Gaussian one of this mu (arXiv 2410.22235, audit_rh_with_cap). */
function refutesMu(m: number, guesses: number, right: number, significance: number, mu: number): boolean {
  let r = (significance * right) / m;
  let h = (significance * (guesses - right)) / m;
  for (let i = right - 1; i >= 0; i--) {
    const next = Math.max(h, normalCdf(normalQuantile(r) - mu));
    if (next === h) break;
    r = Math.min(1, r + (i / (guesses - i)) * (next - h));
    h = next;
  }
  return r + h > guesses / m;
}

const oneRunGaussian: Bound = (m, guesses, right, significance, delta, from) =>
  largest(epsilon => refutesMu(m, guesses, right, significance, muOf(epsilon, delta)), from);

function checked({ significance = 0.05, delta, choice = { kind: 'bonferroni' } }: BoundOptions) {
  checkDelta(delta);
  if (!(significance > 0 && significance < 1))
    throw invalid('significance', `must lie strictly between 0 and 1, not ${significance}`);
  return { significance, delta, choice };
}

/** The best bound over several numbers of guesses, and which one gave it. */
function best(
  m: number,
  points: readonly { guesses: number; right: number }[],
  bound: Bound,
  significance: number,
  delta: number,
): { epsilon: number; at: number } {
  let found = { epsilon: 0, at: -1 };
  // The likeliest first: the others then mostly fail at the first look.
  const order = points
    .map(({ guesses, right }, at) => ({
      guesses,
      right,
      at,
      rank: guesses === 0 ? 0 : lowerBound(right, guesses, significance),
    }))
    .sort((a, b) => b.rank - a.rank);
  for (const { guesses, right, at } of order) {
    if (guesses === 0 || right / guesses <= 1 / (1 + Math.exp(-found.epsilon))) continue;
    const epsilon = bound(m, guesses, right, significance, delta, found.epsilon);
    if (epsilon > found.epsilon) found = { epsilon, at };
  }
  return found;
}

const guessesOf = ({ truePositives, falsePositives }: Point) => ({
  guesses: truePositives + falsePositives,
  right: truePositives,
});

function byChoice(canaries: readonly Canary[], options: BoundOptions, bound: Bound): number {
  const { significance, delta, choice } = checked(options);
  const m = canaries.length;
  if (choice.kind === 'bonferroni') {
    const { hull } = rocCurve(canaries);
    return best(m, hull.map(guessesOf), bound, significance / hull.length, delta).epsilon;
  }
  if (choice.kind === 'guesses') {
    const order = canaries.map((canary, i) => ({ ...canary, i })).sort((a, b) => b.score - a.score || a.i - b.i);
    const points = choice.counts.map(count => {
      const top = order.slice(0, count);
      return { guesses: top.length, right: top.filter(canary => canary.in).length };
    });
    return best(m, points, bound, significance / choice.counts.length, delta).epsilon;
  }
  const [chooser, rest] = split(canaries, choice.share ?? 0.5, choice.seed);
  const { hull } = rocCurve(chooser);
  const { at } = best(chooser.length, hull.map(guessesOf), bound, significance, delta);
  const threshold = hull[Math.max(0, at)]!.threshold;
  const top = rest.filter(canary => canary.score >= threshold);
  const right = top.filter(canary => canary.in).length;
  return best(rest.length, [{ guesses: top.length, right }], bound, significance, delta).epsilon;
}

/** In and out are divided each for itself, so that both parts hold both. */
function split(canaries: readonly Canary[], share: number, seed: Uint8Array): [Canary[], Canary[]] {
  if (!(share > 0 && share < 1)) throw invalid('choice.share', `must lie strictly between 0 and 1, not ${share}`);
  const stream = new SecureStream(seed);
  const parts: [Canary[], Canary[]] = [[], []];
  for (const side of [true, false]) {
    const left = canaries.filter(canary => canary.in === side);
    const first = Math.floor(share * left.length);
    for (let taken = 0; left.length > 0; taken++)
      parts[taken < first ? 0 : 1].push(...left.splice(stream.below(left.length), 1));
  }
  return parts;
}

/** One training with m canaries (arXiv 2305.08846): the scores need not be independent of each other. */
export const oneRunEpsilon = (canaries: readonly Canary[], options: BoundOptions): number =>
  byChoice(canaries, options, oneRun);

/**
 * One training, held against Gaussian releases alone (arXiv 2410.22235): about twice the bound of `oneRunEpsilon`, and what a
 * DP-SGD without sampling exactly is.
 */
export const oneRunGaussianEpsilon = (canaries: readonly Canary[], options: BoundOptions): number =>
  byChoice(canaries, options, oneRunGaussian);

/**
 * The most that m canaries can show: all m guessed, all right. With 128 canaries about 3.7 at 95% whatever was done to the data, so a
 * claim of 4 cannot fail such an audit.
 */
export function largestBound(m: number, options: BoundOptions): number {
  const { significance, delta } = checked(options);
  if (m < 1) return 0;
  return oneRun(m, m, m, significance, delta, 0);
}

/**
 * ln((TPR - delta) / FPR) from Clopper-Pearson bounds on both rates: needs canaries whose scores are independent.
 * Every hull threshold at its share of the significance.
 */
export function clopperPearsonEpsilon(canaries: readonly Canary[], options: BoundOptions): number {
  const { significance, delta } = checked(options);
  const { ins, outs, hull } = rocCurve(canaries);
  let found = 0;
  for (const { truePositives, falsePositives } of hull) {
    const tpr = lowerBound(truePositives, ins, significance / hull.length / 2) - delta;
    const fpr = upperBound(falsePositives, outs, significance / hull.length / 2);
    if (tpr > 0) found = Math.max(found, Math.log(tpr / fpr));
  }
  return found;
}

export interface MuInterval {
  readonly low: number;
  readonly high: number;
}

/**
 * mu of a Gaussian release from the two error rates at one threshold that was fixed before (arXiv 1905.02383, equation 6), canaries
 * with independent scores: mu = quantile(1 - FPR) - quantile(FNR). Above `low` by the privacy guarantee of any build; below `high` as
 * well where the canaries are made so that nothing but the noise stands between them and the release.
 */
export function muInterval(canaries: readonly Canary[], threshold: number, significance = 0.05): MuInterval {
  const { ins, outs } = rocCurve(canaries);
  const missed = canaries.filter(c => c.in && c.score < threshold).length;
  const alarms = canaries.filter(c => !c.in && c.score >= threshold).length;
  // Four one-sided bounds, two for each end.
  const share = significance / 4;
  const mu = (fpr: number, fnr: number): number => -normalQuantile(fpr) - normalQuantile(fnr);
  return {
    low: mu(upperBound(alarms, outs, share), upperBound(missed, ins, share)),
    high: mu(lowerBound(alarms, outs, share), lowerBound(missed, ins, share)),
  };
}

/** Lower bound on epsilon over all thresholds, for Gaussian releases and canaries with independent scores (arXiv 2302.07956). */
export function gaussianEpsilonBound(canaries: readonly Canary[], options: BoundOptions): number {
  const { significance, delta } = checked(options);
  const { ins, outs, hull } = rocCurve(canaries);
  const share = significance / (2 * hull.length);
  let mu = 0;
  for (const { truePositives, falsePositives } of hull) {
    const fpr = upperBound(falsePositives, outs, share);
    const fnr = upperBound(ins - truePositives, ins, share);
    if (Math.max(fpr, fnr) < 1 - delta) mu = Math.max(mu, -normalQuantile(fpr) - normalQuantile(fnr));
  }
  return mu > 0 ? gaussianEpsilon(mu, delta) : 0;
}

/** `oneRunEpsilon` where every one of m canaries was guessed by a rule fixed before, so many of them right. */
export function guessedEpsilon(m: number, right: number, options: BoundOptions): number {
  const { significance, delta } = checked(options);
  return m < 1 ? 0 : oneRun(m, m, right, significance, delta, 0);
}
