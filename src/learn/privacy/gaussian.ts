/**
 * Exact accounting of Gaussian releases without sampling (sample_rate 1): T releases at noise s_i compose to one Gaussian with
 * mu^2 = sum 1 / s_i^2 (Dong, Roth, Su: arXiv 1905.02383), whose curve is known in closed form (Balle, Wang: arXiv 1805.06530).
 */
import { logNormalCdf } from './special.ts';

/** delta at epsilon of a Gaussian release with signal-to-noise mu = sensitivity / standard deviation. */
export function gaussianDelta(mu: number, epsilon: number): number {
  const upper = logNormalCdf(mu / 2 - epsilon / mu);
  const lower = epsilon + logNormalCdf(-mu / 2 - epsilon / mu);
  return lower >= upper ? 0 : -Math.exp(upper) * Math.expm1(lower - upper);
}

/** Smallest epsilon >= 0 with gaussianDelta(mu, epsilon) <= delta (to 1e-13 relative, from above). */
export function gaussianEpsilon(mu: number, delta: number): number {
  if (gaussianDelta(mu, 0) <= delta) return 0;
  let low = 0;
  let high = 1;
  while (gaussianDelta(mu, high) > delta) {
    low = high;
    high *= 2;
    if (high > 1e300) return Infinity;
  }
  for (let i = 0; i < 200 && high - low > 1e-13 * high; i++) {
    const middle = (low + high) / 2;
    if (gaussianDelta(mu, middle) > delta) low = middle;
    else high = middle;
  }
  return high;
}
