import { BLOCK, clamp, coveringStep, putBits, ROUNDS, STRETCH, step, weigh, weight } from './quantize-k-fit.ts';
import { symmetric } from './quantize-k-signed.ts';

/* Codes from 0 to 15 or 31 with a minimum that is taken off: Q4_K, Q5_K. */

const codes = new Uint8Array(BLOCK);
const trial = new Uint8Array(BLOCK);
const scales = new Float64Array(8);
const mins = new Float64Array(8);
const scaleCode = new Int16Array(8);
const minCode = new Int16Array(8);

/** Free fit of one group of 32: leaves scale and min (both at least 0) in `scales[j]`, `mins[j]`. */
function fitAffine(x: Float32Array, o: number, j: number, top: number): void {
  const from = o + j * 32;
  const at = j * 32;
  let low = 0; // a minimum above zero cannot be stored
  let high = x[from]!;
  for (let i = 0; i < 32; i++) {
    const value = x[from + i]!;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  weigh(x, from, at, 32);
  scales[j] = 0;
  mins[j] = -low;
  if (!(high > low)) return; // nothing but one value, not above zero
  let sw = 0;
  let sx = 0;
  let sxx = 0;
  for (let i = 0; i < 32; i++) {
    const w = weight[at + i]!;
    const value = x[from + i]!;
    sw += w;
    sx += w * value;
    sxx += w * value * value;
  }
  let best = Number.POSITIVE_INFINITY;
  const consider = (inverse: number, start: number): boolean => {
    let sq = 0;
    let sqq = 0;
    let sqx = 0;
    for (let i = 0; i < 32; i++) {
      const value = x[from + i]!;
      const shifted = inverse * (value - start) + 0.5;
      const q = shifted <= 0 ? 0 : shifted >= top ? top : shifted | 0;
      const wq = weight[at + i]! * q;
      sq += wq;
      sqq += wq * q;
      sqx += wq * value;
    }
    const det = sw * sqq - sq * sq;
    let scale = det > 0 ? (sw * sqx - sq * sx) / det : 0;
    let offset = det > 0 ? (sqq * sx - sq * sqx) / det : 0;
    if (det <= 0 || offset > 0) {
      offset = 0;
      scale = sqq > 0 ? sqx / sqq : 0;
    }
    if (!(scale > 0)) return false;
    const error = sxx - scale * sqx - offset * sx;
    if (!(error < best)) return false;
    best = error;
    scales[j] = scale;
    mins[j] = -offset;
    return true;
  };
  for (let t = 0; t < STRETCH.length; t++) consider((top + STRETCH[t]!) / (high - low), low);
  for (let t = 0; t < 4 && consider(1 / scales[j]!, -mins[j]!); t++);
}

/** Codes of a group under a scale and a min into `out`, and the weighted error they leave. */
function encodeAffine(
  x: Float32Array,
  from: number,
  at: number,
  top: number,
  scale: number,
  min: number,
  out: Uint8Array,
): number {
  const inverse = scale > 0 ? 1 / scale : 0;
  let error = 0;
  for (let i = 0; i < 32; i++) {
    const value = x[from + i]!;
    const shifted = inverse * (value + min) + 0.5;
    const q = shifted <= 0 ? 0 : shifted >= top ? top : shifted | 0;
    out[at + i] = q;
    const off = scale * q - min - value;
    error += weight[at + i]! * off * off;
  }
  return error;
}

/** The best pair of six-bit integers for a group under the steps, and its codes; returns the error. */
function chooseAffine(x: Float32Array, o: number, j: number, top: number, d: number, m: number): number {
  const from = o + j * 32;
  const at = j * 32;
  const middle = d > 0 ? clamp(Math.round(scales[j]! / d), 0, 63) : 0;
  let best = Number.POSITIVE_INFINITY;
  for (let ls = Math.max(0, middle - 1); ls <= Math.min(63, middle + 1); ls++) {
    const scale = d * ls;
    let lm = m > 0 ? clamp(Math.round(mins[j]! / m), 0, 63) : 0;
    for (let turn = 0; turn < 2; turn++) {
      const error = encodeAffine(x, from, at, top, scale, m * lm, trial);
      if (error < best) {
        best = error;
        scaleCode[j] = ls;
        minCode[j] = lm;
        for (let i = at; i < at + 32; i++) codes[i] = trial[i]!;
      }
      if (turn === 1 || m === 0) break;
      let sw = 0;
      let sum = 0;
      for (let i = 0; i < 32; i++) {
        const w = weight[at + i]!;
        sw += w;
        sum += w * (scale * trial[at + i]! - x[from + i]!);
      }
      const moved = sw > 0 ? clamp(Math.round(sum / sw / m), 0, 63) : lm;
      if (moved === lm) break;
      lm = moved;
    }
  }
  return best;
}

/** The steps that fit the codes and integers best, or undefined where they are not determined. */
function refitAffine(x: Float32Array, o: number): { d: number; m: number } | undefined {
  let aa = 0;
  let ab = 0;
  let bb = 0;
  let ax = 0;
  let bx = 0;
  for (let j = 0; j < 8; j++) {
    const ls = scaleCode[j]!;
    const b = -minCode[j]!;
    for (let i = j * 32; i < j * 32 + 32; i++) {
      const w = weight[i]!;
      const a = ls * codes[i]!;
      const value = x[o + i]!;
      aa += w * a * a;
      ab += w * a * b;
      bb += w * b * b;
      ax += w * a * value;
      bx += w * b * value;
    }
  }
  const det = aa * bb - ab * ab;
  const d = det > 0 ? (bb * ax - ab * bx) / det : aa > 0 ? ax / aa : 0;
  const m = det > 0 ? (aa * bx - ab * ax) / det : 0;
  return d > 0 && m >= 0 ? { d, m } : undefined;
}

interface Affine {
  dBits: number;
  mBits: number;
  readonly scale: Uint8Array;
  readonly min: Uint8Array;
  readonly codes: Uint8Array;
}

const kept: Affine = {
  dBits: 0,
  mBits: 0,
  scale: new Uint8Array(8),
  min: new Uint8Array(8),
  codes: new Uint8Array(BLOCK),
};

function affineBlock(x: Float32Array, o: number, top: number): void {
  let largest = 0;
  let lowest = 0;
  for (let j = 0; j < 8; j++) {
    fitAffine(x, o, j, top);
    largest = Math.max(largest, scales[j]!);
    lowest = Math.max(lowest, mins[j]!);
  }
  let d = coveringStep(largest / 63);
  let m = coveringStep(lowest / 63);
  let best = Number.POSITIVE_INFINITY;
  for (let round = 0; round < ROUNDS; round++) {
    let error = 0;
    for (let j = 0; j < 8; j++) error += chooseAffine(x, o, j, top, d.value, m.value);
    if (!(error < best)) return;
    best = error;
    kept.dBits = d.bits;
    kept.mBits = m.bits;
    for (let j = 0; j < 8; j++) {
      kept.scale[j] = scaleCode[j]!;
      kept.min[j] = minCode[j]!;
    }
    kept.codes.set(codes);
    const next = refitAffine(x, o);
    if (next === undefined) return;
    const bits = d.bits;
    d = step(next.d);
    m = minCode.some(code => code > 0) ? step(next.m) : m;
    if (d.bits === bits && m.bits === kept.mBits) return;
  }
}

/** Eight six-bit scales and eight six-bit mins in twelve bytes: the upper two bits of the first four hold those of the last four. */
function packScales(out: Uint8Array, p: number): void {
  for (let j = 0; j < 4; j++) {
    const [scale, min] = [kept.scale[j + 4]!, kept.min[j + 4]!];
    out[p + j] = kept.scale[j]! | ((scale >> 4) << 6);
    out[p + 4 + j] = kept.min[j]! | ((min >> 4) << 6);
    out[p + 8 + j] = (scale & 15) | ((min & 15) << 4);
  }
}

const affine =
  (bits: 4 | 5) =>
  (x: Float32Array, out: Uint8Array, blocks: number): void => {
    const stride = bits === 4 ? 144 : 176;
    const low = bits === 4 ? 16 : 48;
    for (let b = 0, o = 0, p = 0; b < blocks; b++, o += BLOCK, p += stride) {
      affineBlock(x, o, bits === 4 ? 15 : 31);
      putBits(out, p, kept.dBits);
      putBits(out, p + 2, kept.mBits);
      packScales(out, p + 4);
      for (let j = 0; j < 8; j++) {
        const at = p + low + (j >> 1) * 32;
        for (let i = 0; i < 32; i++) {
          const q = kept.codes[j * 32 + i]!;
          out[at + i]! |= (q & 15) << ((j & 1) * 4);
          if (bits === 5) out[p + 16 + i]! |= (q >> 4) << j;
        }
      }
    }
  };

/** Each takes whole blocks of finite float32 weights and adds their bytes into `out`, which is zero before. */
export const K_ENCODERS = { q4_k: affine(4), q5_k: affine(5), q6_k: symmetric } as const;
