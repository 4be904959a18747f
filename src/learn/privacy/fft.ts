/**
 * In-place complex FFT on split float64 arrays of a power-of-two length. Forward is decimation in frequency (natural order in,
 * bit-reversed out), inverse is decimation in time (bit-reversed in, natural out), so pointwise work in between needs no
 * reordering. Both recurse into halves so that blocks fit the cache.
 */

/** Twiddle factors exp(-2 pi i k / n), k < n / 2, one contiguous table for each level n = size, size/2, ... 2. */
export interface Twiddles {
  readonly size: number;
  readonly cos: Float64Array[];
  readonly sin: Float64Array[];
}

export function makeTwiddles(size: number): Twiddles {
  if (size < 2 || (size & (size - 1)) !== 0) throw new RangeError(`FFT size must be a power of two, not ${size}`);
  const cos: Float64Array[] = [];
  const sin: Float64Array[] = [];
  for (let n = size; n >= 2; n >>= 1) {
    const half = n >> 1;
    const c = new Float64Array(half);
    const s = new Float64Array(half);
    if (n === size) {
      for (let k = 0; k < half; k++) {
        c[k] = Math.cos((-2 * Math.PI * k) / n);
        s[k] = Math.sin((-2 * Math.PI * k) / n);
      }
    } else {
      const upperC = cos[cos.length - 1]!;
      const upperS = sin[sin.length - 1]!;
      for (let k = 0; k < half; k++) {
        c[k] = upperC[2 * k]!;
        s[k] = upperS[2 * k]!;
      }
    }
    cos.push(c);
    sin.push(s);
  }
  return { size, cos, sin };
}

function forward(re: Float64Array, im: Float64Array, from: number, n: number, level: number, w: Twiddles): void {
  const half = n >> 1;
  const c = w.cos[level]!;
  const s = w.sin[level]!;
  for (let k = 0, a = from, b = from + half; k < half; k++, a++, b++) {
    const ar = re[a]!;
    const ai = im[a]!;
    const br = re[b]!;
    const bi = im[b]!;
    re[a] = ar + br;
    im[a] = ai + bi;
    const dr = ar - br;
    const di = ai - bi;
    re[b] = dr * c[k]! - di * s[k]!;
    im[b] = dr * s[k]! + di * c[k]!;
  }
  if (half === 1) return;
  forward(re, im, from, half, level + 1, w);
  forward(re, im, from + half, half, level + 1, w);
}

function backward(re: Float64Array, im: Float64Array, from: number, n: number, level: number, w: Twiddles): void {
  const half = n >> 1;
  if (half > 1) {
    backward(re, im, from, half, level + 1, w);
    backward(re, im, from + half, half, level + 1, w);
  }
  const c = w.cos[level]!;
  const s = w.sin[level]!;
  for (let k = 0, a = from, b = from + half; k < half; k++, a++, b++) {
    const br = re[b]! * c[k]! + im[b]! * s[k]!;
    const bi = im[b]! * c[k]! - re[b]! * s[k]!;
    const ar = re[a]!;
    const ai = im[a]!;
    re[a] = ar + br;
    im[a] = ai + bi;
    re[b] = ar - br;
    im[b] = ai - bi;
  }
}

export function fft(re: Float64Array, im: Float64Array, w: Twiddles): void {
  forward(re, im, 0, w.size, 0, w);
}

/** Unscaled: divide by the size. */
export function inverseFft(re: Float64Array, im: Float64Array, w: Twiddles): void {
  backward(re, im, 0, w.size, 0, w);
}

/** Where, in bit-reversed order, frequency -k stands when k stands at p: every bit below the leading one flips. */
export function mirrored(p: number): number {
  return p < 2 ? p : p ^ ((1 << (31 - Math.clz32(p))) - 1);
}
