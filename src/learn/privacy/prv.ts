/**
 * Numerical composition of privacy loss random variables (Gopi, Lee, Wutschitz: arXiv 2106.02848) for the Poisson-subsampled
 * Gaussian. Losses are discretised on a grid (centred cells, mean kept by a shift), convolved by FFT, and read as an upper
 * bound: epsilon at delta - deltaError, plus epsilonError. The loss of removing a unit and that of adding one differ; both are
 * composed, in one complex transform, and the larger bound is reported.
 *
 * What the bound carries: mesh error .01 (`epsilonError`; more only where the cells would not fit), and delta / 1000 for the rounding
 * of losses to cells and for what lies outside the window. The window is that of the COMPOSED loss, from both its tails, which takes
 * half the cells of one that is symmetric around 0.
 */
import { LearndError } from '../../base/errors.ts';
import { fft, inverseFft, makeTwiddles, mirrored, type Twiddles } from './fft.ts';
import type { Mechanism } from './mechanism.ts';
import { DPA_ORDERS, rdpTotal } from './rdp.ts';
import { erfc } from './special.ts';

/** 8M cells of two float64 arrays and their twiddles: about 0.4 GB, some seconds. */
const MAX_CELLS = 2 ** 23;
const EPSILON_ERROR = 0.01;
/** Below this the slack above would be most of the bound, so a finer grid is worth its time. */
const SMALL_EPSILON = 0.02;
const SMALL_EPSILON_ERROR = 0.002;
/** The error bound of the discretisation is proved for mesh errors below 1. */
const MAX_EPSILON_ERROR = 0.5;
/** Beyond so many standard deviations the noise of one step has a probability below 1e-22: nothing beside the errors accounted for. */
const NOISE_REACH = 9.8;

const failed = (why: string): LearndError =>
  new LearndError('internal', `numerical composition is not possible here: ${why}`, { retriable: false });

/** Mean loss, by the trapezoid rule on the noise's axis, where the integrand is smooth and dies off at both ends. */
function meanLoss(q: number, sigma: number, remove: boolean): number {
  const points = 20_000;
  const from = -13 * sigma;
  const h = ((remove ? 1 : 0) + 26 * sigma) / points;
  let sum = 0;
  for (let i = 0; i <= points; i++) {
    const x = from + i * h;
    const u = (2 * x - 1) / (2 * sigma * sigma);
    const loss = u > 0 ? u + Math.log(q + (1 - q) * Math.exp(-u)) : Math.log1p(q * Math.expm1(u));
    const at0 = Math.exp((-x * x) / (2 * sigma * sigma));
    sum += remove ? loss * ((1 - q) * at0 + q * Math.exp((-(x - 1) * (x - 1)) / (2 * sigma * sigma))) : -loss * at0;
  }
  return (sum * h) / (sigma * Math.sqrt(2 * Math.PI));
}

interface Grid {
  readonly dt: number;
  readonly size: number;
  /** Cells first ... first + size - 1 hold the composed loss; a cell stands at its number modulo size. */
  readonly first: number;
  readonly epsilonError: number;
}

const ORDERS = DPA_ORDERS;

/**
 * Where the composed loss lies but for a probability of `tail` on either side, in both directions. Upper: Markov on
 * exp((a - 1) loss), whose mean is exp((a - 1) RDP(a)). Lower: Markov on exp(-a loss), whose mean is exp((a - 1) RDP(a)) of the
 * opposite direction. The RDP of removing bounds that of adding (arXiv 1908.10530, section 3), so one set of values serves all four.
 */
function lossRange(mechanisms: readonly Mechanism[], tail: number): { low: number; high: number } {
  const rdp = rdpTotal(mechanisms, ORDERS);
  let low = -Infinity;
  let high = Infinity;
  ORDERS.forEach((order, i) => {
    high = Math.min(high, rdp[i]! - Math.log(tail) / (order - 1));
    low = Math.max(low, (-(order - 1) * rdp[i]! + Math.log(tail)) / order);
  });
  return { low, high };
}

function makeGrid(mechanisms: readonly Mechanism[], delta: number, deltaError: number, finest: number): Grid {
  const total = mechanisms.reduce((n, m) => n + m.steps, 0);
  const { low, high } = lossRange(mechanisms, deltaError / 4);
  for (let epsilonError = finest; epsilonError <= MAX_EPSILON_ERROR; epsilonError *= 2) {
    const dt = epsilonError / Math.sqrt((total / 2) * Math.log(12 / deltaError));
    // What the discretisation may move the loss by is part of the range.
    const first = Math.floor((low - 2 * epsilonError) / dt);
    const cells = Math.ceil((high + 2 * epsilonError) / dt) - first + 1;
    if (!Number.isFinite(cells)) break;
    const size = 2 ** Math.max(2, Math.ceil(Math.log2(cells)));
    if (size <= MAX_CELLS) {
      if (size * Number.EPSILON > delta) throw failed(`delta ${delta} is below the rounding error of ${size} cells`);
      return { dt, size, first, epsilonError };
    }
  }
  throw failed('the losses spread over more cells than fit');
}

/**
 * Adds the cell masses of one step's loss to `remove` and `add`, a cell at its number modulo the size: what would lie outside
 * wraps around, which changes the composed loss only where it lies outside itself. The loss of adding is minus the loss of
 * removing seen under the other distribution, so both use the same noise at a cell's edges:
 * with x = sigma^2 ln((e^t + q - 1) / q) + 1/2, P[remove > t] = q Q((x - 1) / sigma) + (1 - q) Q(x / sigma), P[add < -t] = Q(x / sigma).
 * @returns the shifts that keep the means
 */
function discretise(
  m: Mechanism,
  grid: Grid,
  remove: Float64Array,
  add: Float64Array,
): { remove: number; add: number } {
  const { dt, size } = grid;
  const q = m.sample_rate;
  const sigma = m.noise_multiplier;
  const lossAt = (x: number): number => {
    const u = (2 * x - 1) / (2 * sigma * sigma);
    return u > 0 ? u + Math.log(q + (1 - q) * Math.exp(-u)) : Math.log1p(q * Math.expm1(u));
  };
  const from = Math.floor(lossAt(-NOISE_REACH * sigma) / dt);
  const to = Math.ceil(lossAt(1 + NOISE_REACH * sigma) / dt);
  if (to - from > 4 * MAX_CELLS) throw failed('one step alone spreads over more cells than fit');
  const scale = Math.SQRT1_2 / sigma;
  const logQ = Math.log(q);
  let above = 1;
  // erfc(|x| scale) at the edge before: the side of 0 it was on is kept, because the tail must not be taken from 2.
  let edge = 0;
  let negative = true;
  let meanRemove = 0;
  let meanAdd = 0;
  for (let j = from; j <= to; j++) {
    const inner = Math.expm1((j + 0.5) * dt) + q;
    const x = inner > 0 ? sigma * sigma * (Math.log(inner) - logQ) + 0.5 : -Infinity;
    const here = x < 0;
    const tail = j === to || inner <= 0 ? 0 : erfc(Math.abs(x) * scale);
    const atX = here ? 2 - tail : tail;
    const next = j === to ? 0 : here && tail === 0 ? 1 : 0.5 * (q * erfc((x - 1) * scale) + (1 - q) * atX);
    const mass = above - next;
    const massAdd = 0.5 * (here ? tail - edge : negative ? 2 - edge - tail : edge - tail);
    remove[j & (size - 1)]! += mass;
    add[-j & (size - 1)]! += massAdd;
    meanRemove += j * dt * mass;
    meanAdd -= j * dt * massAdd;
    above = next;
    edge = tail;
    negative = here;
  }
  const shift = { remove: meanLoss(q, sigma, true) - meanRemove, add: meanLoss(q, sigma, false) - meanAdd };
  if (!(Math.abs(shift.remove) < dt / 2 && Math.abs(shift.add) < dt / 2))
    throw failed('the mean of the discretised loss is off by more than half a cell');
  return shift;
}

/**
 * Raises the two real spectra packed in (re, im) (remove + i add) to the power of steps, multiplying into (accRe, accIm),
 * which is packed alike, so that one inverse transform gives both.
 */
function multiplyPower(
  re: Float64Array,
  im: Float64Array,
  steps: number,
  accRe: Float64Array,
  accIm: Float64Array,
): void {
  const z = [0, 0];
  const power = (xr: number, xi: number): void => {
    z[0] = 1;
    z[1] = 0;
    if ((steps / 2) * Math.log(xr * xr + xi * xi) < -100) {
      z[0] = 0; // below 1e-43: nothing beside the rounding of the transform
      return;
    }
    for (let n = steps; n > 0; n = Math.floor(n / 2)) {
      if (n % 2 === 1) {
        const r: number = z[0]! * xr - z[1]! * xi;
        z[1] = z[0]! * xi + z[1]! * xr;
        z[0] = r;
      }
      const square: number = xr * xr - xi * xi;
      xi = 2 * xr * xi;
      xr = square;
    }
  };
  for (let p = 0; p < re.length; p++) {
    const m = mirrored(p);
    if (m < p) continue;
    const ar = (re[p]! + re[m]!) / 2;
    const ai = (im[p]! - im[m]!) / 2;
    const br = (im[p]! + im[m]!) / 2;
    const bi = (re[m]! - re[p]!) / 2;
    const accAr = (accRe[p]! + accRe[m]!) / 2;
    const accAi = (accIm[p]! - accIm[m]!) / 2;
    const accBr = (accIm[p]! + accIm[m]!) / 2;
    const accBi = (accRe[m]! - accRe[p]!) / 2;
    power(ar, ai);
    const cr = accAr * z[0]! - accAi * z[1]!;
    const ci = accAr * z[1]! + accAi * z[0]!;
    power(br, bi);
    const dr = accBr * z[0]! - accBi * z[1]!;
    const di = accBr * z[1]! + accBi * z[0]!;
    accRe[p] = cr - di;
    accIm[p] = ci + dr;
    accRe[m] = cr + di;
    accIm[m] = dr - ci;
  }
}

/** Smallest epsilon >= 0 at which the composed loss (masses, grid, shift) spends at most delta; read from the top down. */
function readEpsilon(mass: Float64Array, scale: number, grid: Grid, shift: number, delta: number): number {
  const { dt, size, first } = grid;
  let rounding = 0;
  for (let j = 0; j < size; j++) if (mass[j]! < 0) rounding -= mass[j]! * scale;
  // True masses are not negative: what is shows how large the rounding is, and is taken off the target.
  const target = delta - rounding;
  if (!(rounding < delta / 100)) throw failed(`rounding (${rounding}) is not small beside delta`);
  let above = 0;
  let discounted = 0;
  const growth = Math.exp(dt);
  let discount = Math.exp(-((first + size) * dt + shift));
  for (let j = first + size - 1; j >= first; j--) {
    const t = j * dt + shift;
    const p = Math.max(0, mass[j & (size - 1)]! * scale);
    // exp(-t) from cell to cell; anew now and then, so that rounding does not add up.
    discount = (j & 1023) === 0 ? Math.exp(-t) : discount * growth;
    const nextAbove = above + p;
    const nextDiscounted = discounted + p * discount;
    if (nextAbove - nextDiscounted / discount > target) return Math.log((above - target) / discounted);
    if (t < 0) return 0;
    above = nextAbove;
    discounted = nextDiscounted;
  }
  return 0;
}

/**
 * Upper bound on epsilon at delta for the composition (each mechanism with steps >= 1 and sample_rate > 0).
 * @throws LearndError where the numbers don't carry it: a grid too large, or delta near the rounding error.
 */
export function prvEpsilon(mechanisms: readonly Mechanism[], delta: number): number {
  const bound = compose(mechanisms, delta, EPSILON_ERROR);
  return bound < SMALL_EPSILON ? Math.min(bound, compose(mechanisms, delta, SMALL_EPSILON_ERROR)) : bound;
}

function compose(mechanisms: readonly Mechanism[], delta: number, finest: number): number {
  const deltaError = delta / 1000;
  const grid = makeGrid(mechanisms, delta, deltaError, finest);
  const twiddles: Twiddles = makeTwiddles(grid.size);
  const accRe = new Float64Array(grid.size);
  const accIm = new Float64Array(grid.size);
  // The spectrum of "no loss" for both directions: 1 + i.
  accRe.fill(1);
  accIm.fill(1);
  const re = new Float64Array(grid.size);
  const im = new Float64Array(grid.size);
  let shiftRemove = 0;
  let shiftAdd = 0;
  for (const m of mechanisms) {
    re.fill(0);
    im.fill(0);
    const shift = discretise(m, grid, re, im);
    shiftRemove += m.steps * shift.remove;
    shiftAdd += m.steps * shift.add;
    fft(re, im, twiddles);
    multiplyPower(re, im, m.steps, accRe, accIm);
  }
  inverseFft(accRe, accIm, twiddles);
  const target = delta - deltaError;
  const scale = 1 / grid.size;
  return (
    grid.epsilonError +
    Math.max(readEpsilon(accRe, scale, grid, shiftRemove, target), readEpsilon(accIm, scale, grid, shiftAdd, target))
  );
}
