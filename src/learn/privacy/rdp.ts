/**
 * Renyi differential privacy of the Poisson-subsampled Gaussian (Mironov, Talwar, Zhang: arXiv 1908.10530), add/remove
 * neighbours, and its conversion to (epsilon, delta) (arXiv 2004.00010, Proposition 12).
 *
 * Fractional orders keep the sign of the generalised binomial coefficient, as Opacus does: equal to Opacus 1.6.0 to 1e-9
 * relative on its orders. dp-accounting sums absolute values, which is valid too and up to 3e-4 larger.
 */
import type { Mechanism } from './mechanism.ts';
import { logErfc } from './special.ts';

const range = (from: number, to: number): number[] => Array.from({ length: to - from + 1 }, (_, i) => from + i);
const tenths = Array.from({ length: 99 }, (_, i) => 1 + (i + 1) / 10);

/** Opacus' default orders: 1.1 ... 10.9 by .1, then 12 ... 63. */
export const OPACUS_ORDERS: readonly number[] = [...tenths, ...range(12, 63)];
/** dp-accounting's default orders: 1.1 ... 10.9 by .1, 11 ... 63, 128, 256, 512, 1024. */
export const DPA_ORDERS: readonly number[] = [...tenths, ...range(11, 63), 128, 256, 512, 1024];

/** Terms below e^-30 no longer move log A >= 0; q near 1/2 at orders near 1 converges slowest. */
const LOG_NEGLIGIBLE = -30;
const MAX_TERMS = 20_000;

/** Sum of signed terms given by their logarithms, rescaled as larger ones come. */
class SignedLogSum {
  #max = -Infinity;
  #sum = 0;

  add(log: number, sign: number): void {
    if (log === -Infinity) return;
    if (log > this.#max) {
      this.#sum = this.#sum * Math.exp(this.#max - log) + sign;
      this.#max = log;
    } else {
      this.#sum += sign * Math.exp(log - this.#max);
    }
  }

  get log(): number {
    return this.#max + Math.log(this.#sum);
  }
}

function logAInteger(q: number, sigma: number, alpha: number): number {
  const sum = new SignedLogSum();
  let logBinomial = 0;
  for (let k = 0; k <= alpha; k++) {
    if (k > 0) logBinomial += Math.log((alpha - k + 1) / k);
    sum.add(logBinomial + k * Math.log(q) + (alpha - k) * Math.log1p(-q) + (k * k - k) / (2 * sigma * sigma), 1);
  }
  return sum.log;
}

function logAFractional(q: number, sigma: number, alpha: number): number {
  const sum = new SignedLogSum();
  const z0 = sigma * sigma * (Math.log1p(-q) - Math.log(q)) + 0.5;
  const logQ = Math.log(q);
  const log1Q = Math.log1p(-q);
  const twoVar = 2 * sigma * sigma;
  const toZ = 1 / (Math.SQRT2 * sigma);
  let logBinomial = 0;
  let sign = 1;
  for (let i = 0; ; i++) {
    const j = alpha - i;
    const s0 = logBinomial + i * logQ + j * log1Q + (i * i - i) / twoVar - Math.LN2 + logErfc((i - z0) * toZ);
    const s1 = logBinomial + j * logQ + i * log1Q + (j * j - j) / twoVar - Math.LN2 + logErfc((z0 - j) * toZ);
    sum.add(s0, sign);
    sum.add(s1, sign);
    if (Math.max(s0, s1) < LOG_NEGLIGIBLE) break;
    if (i === MAX_TERMS) {
      // The rest alternates and shrinks, so it is no larger than the last pair: adding that keeps an upper bound.
      sum.add(s0, 1);
      sum.add(s1, 1);
      break;
    }
    const factor = (alpha - i) / (i + 1);
    logBinomial += Math.log(Math.abs(factor));
    if (factor < 0) sign = -sign;
  }
  return sum.log;
}

/**
 * RDP of one step at one order.
 * @param q sampling rate in [0, 1] @param sigma noise multiplier > 0 @param alpha order > 1
 */
export function rdpStep(q: number, sigma: number, alpha: number): number {
  if (q === 0) return 0;
  if (q === 1) return alpha / (2 * sigma * sigma);
  const logA = Number.isInteger(alpha) ? logAInteger(q, sigma, alpha) : logAFractional(q, sigma, alpha);
  return Number.isNaN(logA) ? Infinity : Math.max(0, logA) / (alpha - 1);
}

/** Composed RDP at each order: it adds up, whatever the mechanisms are. */
export function rdpTotal(mechanisms: readonly Mechanism[], orders: readonly number[] = OPACUS_ORDERS): number[] {
  return orders.map(alpha =>
    mechanisms.reduce(
      (total, m) => total + (m.steps === 0 ? 0 : m.steps * rdpStep(m.sample_rate, m.noise_multiplier, alpha)),
      0,
    ),
  );
}

/** Smallest epsilon over the orders, and the order it comes from. */
export function rdpToEpsilon(
  rdp: readonly number[],
  delta: number,
  orders: readonly number[] = OPACUS_ORDERS,
): { epsilon: number; order: number } {
  let best = { epsilon: Infinity, order: orders[0]! };
  orders.forEach((alpha, i) => {
    const epsilon = rdp[i]! + Math.log1p(-1 / alpha) - (Math.log(delta) + Math.log(alpha)) / (alpha - 1);
    if (epsilon < best.epsilon) best = { epsilon, order: alpha };
  });
  return { epsilon: Math.max(0, best.epsilon), order: best.order };
}

/** Upper bound on epsilon at delta. */
export const rdpEpsilon = (
  mechanisms: readonly Mechanism[],
  delta: number,
  orders: readonly number[] = OPACUS_ORDERS,
): number => rdpToEpsilon(rdpTotal(mechanisms, orders), delta, orders).epsilon;
