import { invalid } from '../../../base/errors.ts';
import { GGML, type GgmlType } from './ggml.ts';
import { toBf16, toHalf } from './half.ts';
import { K_ENCODERS } from './quantize-k-blocks.ts';

type Encoder = (x: Float32Array, out: Uint8Array, blocks: number) => void;

const fround = Math.fround;

function putHalf(out: Uint8Array, at: number, value: number): void {
  const h = toHalf(value);
  out[at] = h & 255;
  out[at + 1] = h >> 8;
}

/* All but the k-quants: bit for bit the reference rounding of ggml-quants.c as gguf-py has it, every step in float32. */

/** The symmetric kinds: the value of largest magnitude (the first such) becomes the lowest code. */
const symmetric =
  (bits: 4 | 5): Encoder =>
  (x, out, blocks) => {
    const center = bits === 4 ? 8 : 16;
    const stride = bits === 4 ? 18 : 22;
    const codes = new Uint8Array(32);
    for (let b = 0, o = 0, p = 0; b < blocks; b++, o += 32, p += stride) {
      let max = x[o]!;
      let abs = Math.abs(max);
      for (let j = 1; j < 32; j++) {
        const a = Math.abs(x[o + j]!);
        if (a > abs) {
          abs = a;
          max = x[o + j]!;
        }
      }
      const d = fround(max / -center);
      const id = d === 0 ? 0 : fround(1 / d);
      for (let j = 0; j < 32; j++) {
        codes[j] = Math.min(2 * center - 1, Math.trunc(fround(fround(x[o + j]! * id) + center + 0.5)));
      }
      putHalf(out, p, d);
      pack(codes, out, p + 2, bits);
    }
  };

/** The kinds with an offset: codes count up from the block's minimum. */
const affine =
  (bits: 4 | 5): Encoder =>
  (x, out, blocks) => {
    const top = bits === 4 ? 15 : 31;
    const stride = bits === 4 ? 20 : 24;
    const codes = new Uint8Array(32);
    for (let b = 0, o = 0, p = 0; b < blocks; b++, o += 32, p += stride) {
      let max = x[o]!;
      let min = max;
      for (let j = 1; j < 32; j++) {
        const v = x[o + j]!;
        if (v > max) max = v;
        if (v < min) min = v;
      }
      const d = fround(fround(max - min) / top);
      const id = d === 0 ? 0 : fround(1 / d);
      for (let j = 0; j < 32; j++) {
        codes[j] = Math.min(top, Math.trunc(fround(fround(fround(x[o + j]! - min) * id) + 0.5)));
      }
      putHalf(out, p, d);
      putHalf(out, p + 2, min);
      pack(codes, out, p + 4, bits);
    }
  };

function pack(codes: Uint8Array, out: Uint8Array, at: number, bits: 4 | 5): void {
  let p = at;
  if (bits === 5) {
    for (let k = 0; k < 4; k++) {
      let byte = 0;
      for (let j = 0; j < 8; j++) byte |= (codes[k * 8 + j]! >> 4) << j;
      out[p++] = byte;
    }
  }
  for (let j = 0; j < 16; j++) out[p + j] = (codes[j]! & 15) | ((codes[j + 16]! & 15) << 4);
}

const q8: Encoder = (x, out, blocks) => {
  for (let b = 0, o = 0, p = 0; b < blocks; b++, o += 32, p += 34) {
    let abs = 0;
    for (let j = 0; j < 32; j++) abs = Math.max(abs, Math.abs(x[o + j]!));
    const d = fround(abs / 127);
    const id = d === 0 ? 0 : fround(1 / d);
    putHalf(out, p, d);
    for (let j = 0; j < 32; j++) {
      const v = fround(x[o + j]! * id);
      const a = Math.abs(v);
      const floor = Math.floor(a);
      const q = floor + Math.floor(fround(2 * fround(a - floor))); // half away from zero
      out[p + 2 + j] = v < 0 ? -q : q;
    }
  }
};

const ENCODE: Record<GgmlType, Encoder> = {
  f32: (x, out, n) => out.set(new Uint8Array(x.buffer, x.byteOffset, n * 4)),
  f16: (x, out, n) => {
    for (let i = 0; i < n; i++) putHalf(out, 2 * i, x[i]!);
  },
  bf16: (x, out, n) => {
    for (let i = 0; i < n; i++) {
      const h = toBf16(x[i]!);
      out[2 * i] = h & 255;
      out[2 * i + 1] = h >> 8;
    }
  },
  q4_0: symmetric(4),
  q4_1: affine(4),
  q5_0: symmetric(5),
  q5_1: affine(5),
  q8_0: q8,
  ...K_ENCODERS,
};

/** The largest finite half. Only these hold larger values; in the others a block's scale or offset is a half. */
const LARGEST_HALF = 65504;
const WIDE: ReadonlySet<GgmlType> = new Set(['f32', 'bf16']);

/**
 * Encodes rows of float32 (a whole number of blocks) to the stored bytes; `field` names the tensor in errors.
 * Throws LearndError('invalid') when a value is not finite, or larger than a half holds in a type of halves: a code would be garbage.
 */
export function quantize(type: GgmlType, values: Float32Array, field = 'weights'): Uint8Array {
  const { block, bytes } = GGML[type];
  if (values.length % block !== 0) {
    throw invalid(field, `${values.length} weights are not a whole number of ${type} blocks of ${block}`);
  }
  const limit = WIDE.has(type) ? Number.POSITIVE_INFINITY : LARGEST_HALF;
  for (let i = 0; i < values.length; i++) {
    const value = values[i]!;
    if (!Number.isFinite(value)) {
      throw invalid(field, `weight ${i} is ${value}; a model with such weights cannot be written`);
    }
    if (Math.abs(value) > limit) {
      throw invalid(field, `weight ${i} is ${value}; ${type} holds nothing beyond ${LARGEST_HALF}`, {
        hint: 'Use f32 or bf16, or look for what made the weight so large.',
      });
    }
  }
  const blocks = values.length / block;
  const out = new Uint8Array(blocks * bytes);
  ENCODE[type](values, out, blocks);
  return out;
}
