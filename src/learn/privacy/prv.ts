/**
 * Numerical composition of privacy loss random variables (Gopi, Lee, Wutschitz: arXiv 2106.02848) for the Poisson-subsampled
 * Gaussian. Losses are discretised on a grid (centred cells, mean kept by a shift), convolved by FFT, and read as an upper
 * bound: epsilon at delta - deltaError, plus epsilonError. The loss of removing a unit and that of adding one differ; both are
 * composed, in one complex transform, and the larger bound is reported.
 */
import { LearndError } from '../../base/errors.ts';
import { fft, inverseFft, makeTwiddles, mirrored, type Twiddles } from './fft.ts';
import type { Mechanism } from './mechanism.ts';
import { rdpEpsilon } from './rdp.ts';
import { erfc } from './special.ts';

/** 8M cells of two float64 arrays and their twiddles: about 0.4 GB, some seconds. */
const MAX_CELLS = 2 ** 23;
const EPSILON_ERROR = 0.01;
/** Below this the slack above would be most of the bound, so a finer grid is worth its time. */
const SMALL_EPSILON = 0.02;
const SMALL_EPSILON_ERROR = 0.002;
/** The error bound of the discretisation is proved for mesh errors below 1. */
const MAX_EPSILON_ERROR = 0.5;

const failed = (why: string): LearndError =>
  new LearndError('internal', `numerical composition is not possible here: ${why}`, { retriable: false });

/** P[loss > t] of one step. Remove: the unit is in the first data set. Add: it is in the second. */
function survival(q: number, sigma: number, t: number, remove: boolean): number {
  const s = remove ? t : -t;
  const inner = Math.expm1(s) + q;
  if (inner <= 0) return remove ? 1 : 0;
  const x = sigma * sigma * (Math.log(inner) - Math.log(q)) + 0.5;
  const scale = Math.SQRT1_2 / sigma;
  return remove ? 0.5 * (q * erfc((x - 1) * scale) + (1 - q) * erfc(x * scale)) : 0.5 * erfc(-x * scale);
}

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
  /** Cells -reach ... reach carry mass. */
  readonly reach: number;
  readonly epsilonError: number;
}

function makeGrid(mechanisms: readonly Mechanism[], delta: number, deltaError: number, finest: number): Grid {
  const total = mechanisms.reduce((n, m) => n + m.steps, 0);
  let span = rdpEpsilon(mechanisms, deltaError / 4);
  for (const m of mechanisms) span = Math.max(span, rdpEpsilon([{ ...m, steps: 1 }], deltaError / (8 * total)));
  for (let epsilonError = finest; epsilonError <= MAX_EPSILON_ERROR; epsilonError *= 2) {
    const half = Math.max(span, epsilonError) + 3;
    const dt = epsilonError / Math.sqrt((total / 2) * Math.log(12 / deltaError));
    const reach = Math.ceil(half / dt);
    if (!Number.isFinite(reach)) break;
    const size = 2 ** Math.max(2, Math.ceil(Math.log2(2 * reach + 2)));
    if (size <= MAX_CELLS) {
      if (size * Number.EPSILON > delta) throw failed(`delta ${delta} is below the rounding error of ${size} cells`);
      return { dt, size, reach, epsilonError };
    }
  }
  throw failed('the losses spread over more cells than fit');
}

/** Fills `out` with cell masses, loss 0 at index 0, negative losses wrapped to the end; returns the shift that keeps the mean. */
function discretise(m: Mechanism, remove: boolean, grid: Grid, out: Float64Array): number {
  const { dt, size, reach } = grid;
  const q = m.sample_rate;
  const sigma = m.noise_multiplier;
  let left = survival(q, sigma, (-reach - 0.5) * dt, remove);
  let mean = 0;
  for (let j = -reach; j <= reach; j++) {
    const right = survival(q, sigma, (j + 0.5) * dt, remove);
    const mass = left - right;
    out[j < 0 ? j + size : j] = mass;
    mean += j * dt * mass;
    left = right;
  }
  const shift = meanLoss(q, sigma, remove) - mean;
  if (!(Math.abs(shift) < dt / 2)) throw failed('the mean of the discretised loss is off by more than half a cell');
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
    if ((steps / 2) * Math.log(xr * xr + xi * xi) < -300) {
      z[0] = 0; // below 1e-130: it can't matter, and denormals are slow
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
  const { dt, size } = grid;
  let rounding = 0;
  for (let j = 0; j < size; j++) if (mass[j]! < 0) rounding -= mass[j]! * scale;
  // True masses are not negative: what is shows how large the rounding is, and is taken off the target.
  const target = delta - rounding;
  if (!(rounding < delta / 100)) throw failed(`rounding (${rounding}) is not small beside delta`);
  let above = 0;
  let discounted = 0;
  for (let j = size / 2 - 1; j >= -size / 2; j--) {
    const t = j * dt + shift;
    const p = Math.max(0, mass[j < 0 ? j + size : j]! * scale);
    const nextAbove = above + p;
    const nextDiscounted = discounted + p * Math.exp(-t);
    if (nextAbove - Math.exp(t) * nextDiscounted > target) return Math.log((above - target) / discounted);
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
    shiftRemove += m.steps * discretise(m, true, grid, re);
    shiftAdd += m.steps * discretise(m, false, grid, im);
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
