/** IEEE 754 half precision and bfloat16, by bits: Node 20 has no Float16Array. */

const f32 = new Float32Array(1);
const bits = new Uint32Array(f32.buffer);

let table: Float32Array | undefined;

/** All 65,536 half values as float32 (256 KiB, made on first use): a look-up is faster than the arithmetic. */
export function halfTable(): Float32Array {
  if (table !== undefined) return table;
  table = new Float32Array(65536);
  const out = new Uint32Array(table.buffer);
  for (let h = 0; h < 65536; h++) {
    const sign = (h & 0x8000) << 16;
    const exponent = (h >> 10) & 0x1f;
    const mantissa = h & 0x3ff;
    if (exponent === 0x1f) out[h] = (sign | 0x7f800000 | (mantissa << 13)) >>> 0;
    else if (exponent !== 0) out[h] = (sign | ((exponent + 112) << 23) | (mantissa << 13)) >>> 0;
    else table[h] = (sign ? -1 : 1) * mantissa * 2 ** -24; // subnormal or zero: exact in float32
  }
  return table;
}

/** Rounds to nearest, ties to even, as C's and numpy's casts do. */
export function toHalf(value: number): number {
  f32[0] = value;
  const x = bits[0]!;
  const sign = (x >>> 16) & 0x8000;
  const magnitude = x & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00 | ((magnitude >> 13) & 0x3ff); // NaN stays NaN, quiet
  if (magnitude >= 0x477ff000) return sign | 0x7c00; // 65520 and above round to infinity
  if (magnitude < 0x38800000) {
    // Below 2^-14: subnormal half. In units of 2^-24 the double is exact, so round-half-even by hand.
    const scaled = Math.abs(f32[0]!) * 2 ** 24;
    const floor = Math.floor(scaled);
    const rest = scaled - floor;
    return sign | (rest > 0.5 || (rest === 0.5 && (floor & 1) === 1) ? floor + 1 : floor);
  }
  const rounded = magnitude + 0xfff + ((magnitude >> 13) & 1);
  return sign | ((rounded - 0x38000000) >> 13);
}

/** Round to nearest even; NaN is forced quiet (ggml's rule). */
export function toBf16(value: number): number {
  f32[0] = value;
  const x = bits[0]!;
  if ((x & 0x7fffffff) > 0x7f800000) return (x >>> 16) | 64;
  return ((x + 0x7fff + ((x >>> 16) & 1)) / 65536) & 0xffff;
}
