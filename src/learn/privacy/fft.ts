/**
 * In-place complex FFT on split float64 arrays of a power-of-two length. Forward is decimation in frequency (natural order in,
 * bit-reversed out), inverse is decimation in time (bit-reversed in, natural out), so pointwise work in between needs no
 * reordering. Passes are of radix 4 (two levels for one trip through memory); large arrays are split first until a part fits the
 * cache, then worked through level by level.
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
    if (n === size) fillCircle(c, s, n);
    else {
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

/** exp(-2 pi i k / n) for k < n / 2: an eighth of the circle is computed, the rest mirrored. */
function fillCircle(c: Float64Array, s: Float64Array, n: number): void {
  const half = n >> 1;
  if (n < 8) {
    for (let k = 0; k < half; k++) {
      c[k] = Math.cos((-2 * Math.PI * k) / n);
      s[k] = Math.sin((-2 * Math.PI * k) / n);
    }
    return;
  }
  const quarter = n >> 2;
  for (let k = 0; k <= n >> 3; k++) {
    const x = Math.cos((2 * Math.PI * k) / n);
    const y = Math.sin((2 * Math.PI * k) / n);
    c[k] = x;
    s[k] = -y;
    c[quarter - k] = y;
    s[quarter - k] = -x;
  }
  for (let k = 1; k < quarter; k++) {
    c[quarter + k] = s[k]!;
    s[quarter + k] = -c[k]!;
  }
  c[quarter] = 0;
  s[quarter] = -1;
}

/** Numbers of a part that is worked through level by level: 2 x 64 KB and its twiddles stay in the second-level cache. */
const BLOCK = 1 << 13;

/** Two levels of decimation in frequency, of length n and n / 2, on [from, from + n). */
function forward4(re: Float64Array, im: Float64Array, from: number, n: number, level: number, w: Twiddles): void {
  const q = n >> 2;
  const c1 = w.cos[level]!;
  const s1 = w.sin[level]!;
  const c2 = w.cos[level + 1]!;
  const s2 = w.sin[level + 1]!;
  for (let k = 0, i0 = from, i1 = from + q, i2 = i1 + q, i3 = i2 + q; k < q; k++, i0++, i1++, i2++, i3++) {
    const ar = re[i0]! + re[i2]!;
    const ai = im[i0]! + im[i2]!;
    const br = re[i1]! + re[i3]!;
    const bi = im[i1]! + im[i3]!;
    const dr = re[i0]! - re[i2]!;
    const di = im[i0]! - im[i2]!;
    // The second twiddle of the upper level is the first times -i.
    const er = im[i1]! - im[i3]!;
    const ei = re[i3]! - re[i1]!;
    const wr = c1[k]!;
    const wi = s1[k]!;
    const vr = c2[k]!;
    const vi = s2[k]!;
    re[i0] = ar + br;
    im[i0] = ai + bi;
    const xr = ar - br;
    const xi = ai - bi;
    re[i1] = xr * vr - xi * vi;
    im[i1] = xr * vi + xi * vr;
    const yr = dr + er;
    const yi = di + ei;
    re[i2] = yr * wr - yi * wi;
    im[i2] = yr * wi + yi * wr;
    const zr = dr - er;
    const zi = di - ei;
    const ur = wr * vr - wi * vi;
    const ui = wr * vi + wi * vr;
    re[i3] = zr * ur - zi * ui;
    im[i3] = zr * ui + zi * ur;
  }
}

/** Two levels of decimation in time, of length n / 2 and n, with conjugate twiddles, on [from, from + n). */
function backward4(re: Float64Array, im: Float64Array, from: number, n: number, level: number, w: Twiddles): void {
  const q = n >> 2;
  const c1 = w.cos[level]!;
  const s1 = w.sin[level]!;
  const c2 = w.cos[level + 1]!;
  const s2 = w.sin[level + 1]!;
  for (let k = 0, i0 = from, i1 = from + q, i2 = i1 + q, i3 = i2 + q; k < q; k++, i0++, i1++, i2++, i3++) {
    const wr = c1[k]!;
    const wi = s1[k]!;
    const vr = c2[k]!;
    const vi = s2[k]!;
    const ur = wr * vr - wi * vi;
    const ui = wr * vi + wi * vr;
    const br = re[i1]! * vr + im[i1]! * vi;
    const bi = im[i1]! * vr - re[i1]! * vi;
    const cr = re[i2]! * wr + im[i2]! * wi;
    const ci = im[i2]! * wr - re[i2]! * wi;
    const dr = re[i3]! * ur + im[i3]! * ui;
    const di = im[i3]! * ur - re[i3]! * ui;
    const ar = re[i0]!;
    const ai = im[i0]!;
    const pr = ar + br;
    const pi = ai + bi;
    const mr = ar - br;
    const mi = ai - bi;
    const sr = cr + dr;
    const si = ci + di;
    const tr = di - ci;
    const ti = cr - dr;
    re[i0] = pr + sr;
    im[i0] = pi + si;
    re[i2] = pr - sr;
    im[i2] = pi - si;
    re[i1] = mr + tr;
    im[i1] = mi + ti;
    re[i3] = mr - tr;
    im[i3] = mi - ti;
  }
}

/** The last level, of length 2, of all pairs in [from, from + n). */
function pairs(re: Float64Array, im: Float64Array, from: number, n: number): void {
  for (let i = from; i < from + n; i += 2) {
    const r = re[i + 1]!;
    const m = im[i + 1]!;
    re[i + 1] = re[i]! - r;
    im[i + 1] = im[i]! - m;
    re[i] = re[i]! + r;
    im[i] = im[i]! + m;
  }
}

function forward(re: Float64Array, im: Float64Array, from: number, n: number, level: number, w: Twiddles): void {
  if (n > BLOCK) {
    forward4(re, im, from, n, level, w);
    for (let part = 0; part < 4; part++) forward(re, im, from + part * (n >> 2), n >> 2, level + 2, w);
    return;
  }
  let at = level;
  let length = n;
  for (; length >= 4; length >>= 2, at += 2)
    for (let i = from; i < from + n; i += length) forward4(re, im, i, length, at, w);
  if (length === 2) pairs(re, im, from, n);
}

function backward(re: Float64Array, im: Float64Array, from: number, n: number, level: number, w: Twiddles): void {
  if (n > BLOCK) {
    for (let part = 0; part < 4; part++) backward(re, im, from + part * (n >> 2), n >> 2, level + 2, w);
    backward4(re, im, from, n, level, w);
    return;
  }
  // The levels of `forward`, from the last to the first.
  const levels = Math.log2(n);
  if (levels % 2 === 1) pairs(re, im, from, n);
  for (let length = levels % 2 === 1 ? 8 : 4; length <= n; length <<= 2) {
    const at = level + Math.log2(n / length);
    for (let i = from; i < from + n; i += length) backward4(re, im, i, length, at, w);
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
