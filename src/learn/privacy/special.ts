/**
 * erfc and its logarithm in float64: JavaScript has neither, and the accountants need the far tail.
 *
 * For x >= 0: log erfc(x) = -x^2 + log t + P(t) with t = 2 / (2 + x). P is smooth on (0, 1], so one Chebyshev series covers
 * zero to infinity; the coefficients come from test/golden/make_erfc.py (mpmath, 50 digits) and reach 1e-16 with 28 terms.
 */

const SERIES = new Float64Array([
  -0.6513268598908547, 0.6419697923564902, 0.019476473204185836, -0.009561514786808632, -0.0009465953444820369,
  0.00036683949785276145, 4.252332480690777e-5, -2.0278578112534242e-5, -1.6242900046470256e-6, 1.3036558355805232e-6,
  1.5626441722066142e-8, -8.523809591492654e-8, 6.5290544390988515e-9, 5.059343495551469e-9, -9.91364156493033e-10,
  -2.273651222931836e-10, 9.646791102015527e-11, 2.3940380830391146e-12, -6.886027526497553e-12, 8.944879273090725e-13,
  3.130921399342958e-13, -1.1270822361367252e-13, 3.810905255189232e-16, 7.106097613609237e-15, -1.5230282014571043e-15,
  -9.457494571291233e-17, 1.210237189224279e-16, -2.816663087747177e-17,
]);

/** log erfc(x) + x^2 for x >= 0: no underflow however large x is. */
function logScaledErfc(x: number): number {
  const t = 2 / (2 + x);
  const y2 = 4 * t - 2;
  let d = 0;
  let dd = 0;
  for (let j = SERIES.length - 1; j > 0; j--) {
    const next = y2 * d - dd + SERIES[j]!;
    dd = d;
    d = next;
  }
  return Math.log(t) + (y2 / 2) * d - dd + SERIES[0]!;
}

/** erfc(x), relative error below 1e-13 for |x| < 26 (it underflows to 0 past that). */
export function erfc(x: number): number {
  if (x < 0) return 2 - erfc(-x);
  return Math.exp(logScaledErfc(x) - x * x);
}

/** log erfc(x) for any x, the tail included. */
export function logErfc(x: number): number {
  return x < 0 ? Math.LN2 + Math.log1p(-0.5 * erfc(-x)) : logScaledErfc(x) - x * x;
}

/** log of the standard normal distribution function. */
export const logNormalCdf = (x: number): number => logErfc(-x * Math.SQRT1_2) - Math.LN2;

export const normalCdf = (x: number): number => 0.5 * erfc(-x * Math.SQRT1_2);

/** Inverse of the standard normal distribution function, 1e-13 relative. By Newton's method on its logarithm. */
export function normalQuantile(p: number): number {
  if (!(p > 0)) return p === 0 ? -Infinity : Number.NaN;
  if (p >= 1) return p === 1 ? Infinity : Number.NaN;
  if (p > 0.5) return -normalQuantile(1 - p);
  const wanted = Math.log(p);
  // From the tail's leading terms, which lie below the root: the logarithm is concave, so Newton's steps approach it from there.
  const l = -2 * wanted;
  let x = p > 0.1 ? -1.5 : -Math.sqrt(Math.max(0, l - Math.log(l * 2 * Math.PI)));
  for (let i = 0; i < 50; i++) {
    const log = logNormalCdf(x);
    // d log cdf = pdf / cdf
    const slope = Math.exp(-0.5 * x * x - log) / Math.sqrt(2 * Math.PI);
    const step = (wanted - log) / slope;
    x += step;
    if (Math.abs(step) <= 1e-15 * Math.max(1, Math.abs(x))) break;
  }
  return x;
}
