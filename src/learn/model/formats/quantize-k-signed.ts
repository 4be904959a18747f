import { BLOCK, clamp, coveringStep, putBits, ROUNDS, STRETCH, step, weigh, weight } from './quantize-k-fit.ts';

/* Codes from -32 to 31 around zero: Q6_K. */

const scales = new Float64Array(16);
const scaleCode = new Int16Array(16);
const signed = new Int8Array(BLOCK);
const signedTrial = new Int8Array(16);
const keptSigned = new Int8Array(BLOCK);
const keptScale = new Int8Array(16);

/** -32 to 31. */
function nearest(value: number): number {
  if (value <= -32) return -32;
  return value >= 31 ? 31 : Math.floor(value + 0.5);
}

/** Free fit of one group of 16: leaves a scale of either sign in `scales[j]`. */
function fitSymmetric(x: Float32Array, o: number, j: number): void {
  const from = o + j * 16;
  const at = j * 16;
  const squares = weigh(x, from, at, 16);
  let far = 0;
  for (let i = 0; i < 16; i++) if (Math.abs(x[from + i]!) > Math.abs(far)) far = x[from + i]!;
  scales[j] = 0;
  if (!(squares > 0)) return;
  let best = 0;
  const consider = (inverse: number): boolean => {
    let sqq = 0;
    let sqx = 0;
    for (let i = 0; i < 16; i++) {
      const value = x[from + i]!;
      const q = nearest(inverse * value);
      const wq = weight[at + i]! * q;
      sqq += wq * q;
      sqx += wq * value;
    }
    // What the fit explains of the squares.
    if (!(sqq > 0) || !(sqx * sqx > best * sqq)) return false;
    best = (sqx * sqx) / sqq;
    scales[j] = sqx / sqq;
    return true;
  };
  for (let t = 0; t < STRETCH.length; t++) {
    consider(-(32 + STRETCH[t]!) / far);
    consider((31 + STRETCH[t]!) / far);
  }
  for (let t = 0; t < 4 && consider(1 / scales[j]!); t++);
}

/** The best integer scale for a group under the step, and its codes; returns the error. */
function chooseSymmetric(x: Float32Array, o: number, j: number, d: number): number {
  const from = o + j * 16;
  const at = j * 16;
  const middle = d === 0 ? 0 : clamp(Math.round(scales[j]! / d), -128, 127);
  let best = Number.POSITIVE_INFINITY;
  for (let code = Math.max(-128, middle - 1); code <= Math.min(127, middle + 1); code++) {
    const scale = d * code;
    const inverse = scale === 0 ? 0 : 1 / scale;
    let error = 0;
    for (let i = 0; i < 16; i++) {
      const value = x[from + i]!;
      const q = nearest(inverse * value);
      signedTrial[i] = q;
      error += weight[at + i]! * (scale * q - value) ** 2;
    }
    if (error < best) {
      best = error;
      scaleCode[j] = code;
      signed.set(signedTrial, at);
    }
  }
  return best;
}

function symmetricBlock(x: Float32Array, o: number): number {
  let far = 0;
  for (let j = 0; j < 16; j++) {
    fitSymmetric(x, o, j);
    if (Math.abs(scales[j]!) > Math.abs(far)) far = scales[j]!;
  }
  let d = coveringStep(far / -128);
  let bits = d.bits;
  let best = Number.POSITIVE_INFINITY;
  for (let round = 0; round < ROUNDS; round++) {
    let error = 0;
    for (let j = 0; j < 16; j++) error += chooseSymmetric(x, o, j, d.value);
    if (!(error < best)) break;
    best = error;
    bits = d.bits;
    for (let j = 0; j < 16; j++) keptScale[j] = scaleCode[j]!;
    keptSigned.set(signed);
    let sqq = 0;
    let sqx = 0;
    for (let i = 0; i < BLOCK; i++) {
      const a = scaleCode[i >> 4]! * signed[i]!;
      sqq += weight[i]! * a * a;
      sqx += weight[i]! * a * x[o + i]!;
    }
    if (!(sqq > 0)) break;
    d = step(sqx / sqq);
    if (d.bits === bits) break;
  }
  return bits;
}

/** Whole blocks of finite weights as Q6_K, added into `out`, which is zero before. */
export function symmetric(x: Float32Array, out: Uint8Array, blocks: number): void {
  for (let b = 0, o = 0, p = 0; b < blocks; b++, o += BLOCK, p += 210) {
    putBits(out, p + 208, symmetricBlock(x, o));
    for (let j = 0; j < 16; j++) out[p + 192 + j] = keptScale[j]! & 255;
    for (let i = 0; i < BLOCK; i++) {
      const half = i >> 7; // 128 weights: 64 bytes of low bits, 32 of high bits
      const within = i & 127;
      const q = keptSigned[i]! + 32;
      out[p + half * 64 + (within & 63)]! |= (q & 15) << (within >> 6 ? 4 : 0);
      out[p + 128 + half * 32 + (within & 31)]! |= (q >> 4) << ((within >> 5) * 2);
    }
  }
}
