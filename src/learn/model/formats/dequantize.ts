import type { BoundedFile } from './bounded-file.ts';
import type { GgmlType } from './ggml.ts';
import { GGML } from './ggml.ts';
import { halfTable } from './half.ts';

type Decoder = (bytes: Uint8Array, out: Float32Array, blocks: number) => void;

const half = (bytes: Uint8Array, at: number): number => halfTable()[bytes[at]! | (bytes[at + 1]! << 8)]!;

/*
 * Layouts: ggml-quants.c, checked against gguf-py. In the 32-blocks byte j holds weight j (low four bits) and weight
 * j + 16 (high four); the fifth bits stand in a 32-bit word, bit j for weight j. Writes to a Float32Array round to
 * float32; Math.fround stands where the reference rounds a product before it adds.
 */
const q4 =
  (stride: number, offset: boolean): Decoder =>
  (bytes, out, blocks) => {
    for (let b = 0, p = 0, o = 0; b < blocks; b++, p += stride, o += 32) {
      const d = half(bytes, p);
      const m = offset ? half(bytes, p + 2) : 0;
      const qs = p + (offset ? 4 : 2);
      for (let j = 0; j < 16; j++) {
        const q = bytes[qs + j]!;
        if (offset) {
          out[o + j] = Math.fround(d * (q & 15)) + m;
          out[o + j + 16] = Math.fround(d * (q >> 4)) + m;
        } else {
          out[o + j] = d * ((q & 15) - 8);
          out[o + j + 16] = d * ((q >> 4) - 8);
        }
      }
    }
  };

const q5 =
  (stride: number, offset: boolean): Decoder =>
  (bytes, out, blocks) => {
    for (let b = 0, p = 0, o = 0; b < blocks; b++, p += stride, o += 32) {
      const d = half(bytes, p);
      const m = offset ? half(bytes, p + 2) : 0;
      const qh = p + (offset ? 4 : 2);
      const high = bytes[qh]! | (bytes[qh + 1]! << 8) | (bytes[qh + 2]! << 16) | (bytes[qh + 3]! << 24);
      for (let j = 0; j < 16; j++) {
        const q = bytes[qh + 4 + j]!;
        const low = (q & 15) | (((high >>> j) & 1) << 4);
        const up = (q >> 4) | (((high >>> (j + 16)) & 1) << 4);
        out[o + j] = offset ? Math.fround(d * low) + m : d * (low - 16);
        out[o + j + 16] = offset ? Math.fround(d * up) + m : d * (up - 16);
      }
    }
  };

/** Q4_K and Q5_K pack eight 6-bit scales and eight 6-bit minima into 12 bytes. */
function scaleMin(bytes: Uint8Array, at: number, j: number): [number, number] {
  if (j < 4) return [bytes[at + j]! & 63, bytes[at + 4 + j]! & 63];
  const packed = bytes[at + 4 + j]!;
  return [(packed & 15) | ((bytes[at + j - 4]! >> 2) & 48), (packed >> 4) | ((bytes[at + j]! >> 2) & 48)];
}

const q45k =
  (five: boolean): Decoder =>
  (bytes, out, blocks) => {
    const stride = five ? 176 : 144;
    for (let b = 0, p = 0, o = 0; b < blocks; b++, p += stride, o += 256) {
      const d = half(bytes, p);
      const dmin = half(bytes, p + 2);
      const qh = p + 16;
      const qs = p + (five ? 48 : 16);
      for (let j = 0; j < 8; j++) {
        const [sc, mn] = scaleMin(bytes, p + 4, j);
        const scale = Math.fround(d * sc);
        const min = Math.fround(dmin * mn);
        const shift = (j & 1) * 4;
        const base = qs + (j >> 1) * 32;
        for (let i = 0; i < 32; i++) {
          let q = (bytes[base + i]! >> shift) & 15;
          if (five) q |= ((bytes[qh + i]! >> j) & 1) << 4;
          out[o + j * 32 + i] = Math.fround(scale * q) - min;
        }
      }
    }
  };

const q6k: Decoder = (bytes, out, blocks) => {
  for (let b = 0, p = 0, o = 0; b < blocks; b++, p += 210, o += 256) {
    const d = half(bytes, p + 208);
    for (let i = 0; i < 256; i++) {
      const group = i >> 7; // 128 weights: 64 bytes of low bits, 32 of high bits
      const within = i & 127;
      const low = (bytes[p + group * 64 + (within & 63)]! >> (within >> 6 ? 4 : 0)) & 15;
      const high = (bytes[p + 128 + group * 32 + (within & 31)]! >> ((within >> 5) * 2)) & 3;
      const scale = (bytes[p + 192 + (i >> 4)]! << 24) >> 24;
      out[o + i] = Math.fround(d * scale) * ((low | (high << 4)) - 32);
    }
  }
};

const q8: Decoder = (bytes, out, blocks) => {
  const signed = new Int8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let b = 0, p = 0, o = 0; b < blocks; b++, p += 34, o += 32) {
    const d = half(bytes, p);
    for (let j = 0; j < 32; j++) out[o + j] = signed[p + 2 + j]! * d;
  }
};

const f16: Decoder = (bytes, out, n) => {
  const values = halfTable();
  for (let i = 0; i < n; i++) out[i] = values[bytes[2 * i]! | (bytes[2 * i + 1]! << 8)]!;
};

const bf16: Decoder = (bytes, out, n) => {
  const raw = new Uint32Array(out.buffer, out.byteOffset, n);
  for (let i = 0; i < n; i++) raw[i] = (bytes[2 * i]! << 16) | (bytes[2 * i + 1]! << 24);
};

const f32: Decoder = (bytes, out, n) => {
  new Uint8Array(out.buffer, out.byteOffset, n * 4).set(bytes.subarray(0, n * 4));
};

const DECODE: Record<GgmlType, Decoder> = {
  f32,
  f16,
  bf16,
  q4_0: q4(18, false),
  q4_1: q4(20, true),
  q5_0: q5(22, false),
  q5_1: q5(24, true),
  q8_0: q8,
  q4_k: q45k(false),
  q5_k: q45k(true),
  q6_k: q6k,
};

/** `elements` weights from `bytes` (little-endian, whole blocks) as float32. */
export function dequantize(type: GgmlType, bytes: Uint8Array, elements: number): Float32Array {
  const out = new Float32Array(elements);
  DECODE[type](bytes, out, elements / GGML[type].block);
  return out;
}

const CHUNK = 1 << 20;

/**
 * Fills `out` with the weights that stand from `offset` of the file, a megabyte of stored bytes at a time: beside `out` nothing of
 * the tensor's size is held.
 */
export function dequantizeInto(
  out: Float32Array,
  type: GgmlType,
  file: BoundedFile,
  offset: number,
  field: string,
): Float32Array {
  const { block, bytes } = GGML[type];
  const blocks = out.length / block;
  const each = Math.min(blocks, Math.floor(CHUNK / bytes));
  const buffer = new Uint8Array(each * bytes);
  for (let at = 0; at < blocks; at += each) {
    const n = Math.min(each, blocks - at);
    const chunk = file.readInto(offset + at * bytes, buffer.subarray(0, n * bytes), field);
    DECODE[type](chunk, out.subarray(at * block, (at + n) * block), n);
  }
  return out;
}
