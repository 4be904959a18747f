import { halfTable, toHalf } from './half.ts';

/*
 * Q4_K, Q5_K and Q6_K blocks of 256 weights, laid out as dequantize.ts reads them. A block's groups (8 of 32, or 16 of 16) each have a
 * scale that is itself a small integer times the block's half-precision step. Fitted by weighted least squares, first each group
 * freely, then its integers, then the block's steps, every time against the codes that will be stored:
 *   sum over i of w_i (scale q_i - min - x_i)^2,   w_i = r + |x_i|,   r the root mean square of the group.
 * Large weights count more (at most about as far as they stand out), for they carry most of a product. All in float64 by + - * / and
 * square root alone, so the same weights give the same bytes on every machine.
 */

export const BLOCK = 256;
/** Rounds in which the block's steps are fitted to the codes and the codes to the steps; more changed nothing that counts. */
export const ROUNDS = 3;
/** How far the range of codes is stretched or shrunk in the search for a group's scale, in codes. */
export const STRETCH = Float64Array.from({ length: 19 }, (_, i) => (i - 9) / 10);

export const weight = new Float64Array(BLOCK);

interface Step {
  readonly bits: number;
  readonly value: number;
}

const stepOf = (bits: number): Step => ({ bits, value: halfTable()[bits]! });

/** The half nearest to `value`, and what it decodes to. */
export const step = (value: number): Step => stepOf(toHalf(value));

/** The nearest half that is not smaller in size: of a step that is a subnormal half, rounding down would put the largest out of reach. */
export function coveringStep(value: number): Step {
  const near = step(value);
  return Math.abs(near.value) < Math.abs(value) ? stepOf(near.bits + 1) : near;
}

export const clamp = (value: number, low: number, high: number): number => Math.min(high, Math.max(low, value));

/** Fills `weight` for a group and returns the weighted sum of squares. */
export function weigh(x: Float32Array, from: number, group: number, size: number): number {
  let squares = 0;
  for (let i = 0; i < size; i++) squares += x[from + i]! * x[from + i]!;
  const root = Math.sqrt(squares / size);
  let sum = 0;
  for (let i = 0; i < size; i++) {
    const value = x[from + i]!;
    const w = root + Math.abs(value);
    weight[group + i] = w;
    sum += w * value * value;
  }
  return sum;
}

export function putBits(out: Uint8Array, p: number, bits: number): void {
  out[p] = bits & 255;
  out[p + 1] = bits >> 8;
}
