/**
 * Randomness that whoever sees the model cannot predict: an AES-256-CTR key stream keyed from the system's generator. A kept
 * seed replays a step's sample and noise after a crash; it is as secret as the data, because it allows the noise to be
 * subtracted: destroy it when the round ends.
 */
import { type Cipher, createCipheriv, createHmac, randomBytes } from 'node:crypto';
import { invalid } from '../../base/errors.ts';
import { type Tensor, tensorflow } from '../tensor/backend.ts';

export const SEED_BYTES = 32;
const CHUNK = 1 << 16;
const ZEROS = Buffer.alloc(CHUNK);
const IV = Buffer.alloc(16);
const TWO_PI = 2 * Math.PI;
/** From this many normals on they are made by TensorFlow's ops: 5 ns a number instead of 25, but 0.1 ms for the smallest. */
const NATIVE_FROM = 1 << 16;
/** Pairs at a time: few enough ops that calling them costs nothing, little enough memory. A multiple of what vectors hold. */
const NATIVE_PAIRS = 1 << 19;
/** Of the key stream at a time: memory of 128 KB and more comes new from the system, page by page, which takes longer than AES. */
const STREAM_BYTES = 96 << 10;
const NATIVE_GRAIN = 1 << 10;
/** Words below this, once in 2 million, are worth more bits: there the radius would come in steps of a thousandth of itself. */
const COARSE = 1 << 10;

const STREAM_ZEROS = Buffer.alloc(STREAM_BYTES);
let pool = Buffer.alloc(0);

/** The next bytes of a key stream, in memory that the next call writes over. */
function keyStream(cipher: Cipher, bytes: number): Buffer {
  if (pool.length < bytes) pool = Buffer.alloc(bytes);
  for (let at = 0; at < bytes; at += STREAM_BYTES)
    pool.set(cipher.update(STREAM_ZEROS.subarray(0, Math.min(STREAM_BYTES, bytes - at))), at);
  return pool;
}

/** Forward-only stream of uniform and normal numbers. One key, one use: derive a stream for each purpose. */
export class SecureStream {
  readonly #cipher: Cipher;
  #words = new Uint32Array(0);
  #at = 0;

  /** @param key 32 bytes; without it, from the system's generator */
  constructor(key: Uint8Array = randomBytes(SEED_BYTES)) {
    if (key.length !== SEED_BYTES) throw invalid('seed', `must be ${SEED_BYTES} bytes, not ${key.length}`);
    this.#cipher = createCipheriv('aes-256-ctr', key, IV);
  }

  #refill(): void {
    const bytes = this.#cipher.update(ZEROS);
    this.#words = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength >> 2);
    this.#at = 0;
  }

  #word(): number {
    if (this.#at === this.#words.length) this.#refill();
    return this.#words[this.#at++]!;
  }

  /** Uniform on [0, 1), 53 bits. */
  uniform(): number {
    return ((this.#word() >>> 5) * 2 ** 26 + (this.#word() >>> 6)) * 2 ** -53;
  }

  /** Whole number from 0 to n - 1 (bias below n / 2^53). */
  below(n: number): number {
    return Math.floor(this.uniform() * n);
  }

  /**
   * Fills with N(0, std^2). Below 65,536 numbers by Box-Muller in float64: the radius from 53 bits (so the tail reaches 8.5 standard
   * deviations), the angle from 32; about 25 ns a number on one core. From there on as `normalTensor`: which way is a matter of the
   * number alone, so that a seed gives the same noise wherever it is replayed.
   */
  fillNormal(out: Float32Array | Float64Array, std = 1): void {
    const n = out.length;
    if (n >= NATIVE_FROM) {
      const made = this.normalTensor(n, std);
      out.set(made.dataSync());
      made.dispose();
      return;
    }
    for (let i = 0; i < n; i += 2) {
      if (this.#at + 3 > this.#words.length) this.#refill();
      const words = this.#words;
      const at = this.#at;
      this.#at = at + 3;
      const u = ((words[at]! >>> 5) * 2 ** 26 + (words[at + 1]! >>> 6) + 1) * 2 ** -53;
      const radius = std * Math.sqrt(-2 * Math.log(u));
      const angle = words[at + 2]! * (TWO_PI / 2 ** 32);
      out[i] = radius * Math.cos(angle);
      if (i + 1 < n) out[i + 1] = radius * Math.sin(angle);
    }
  }

  /**
   * N(0, std^2) as a tensor [n], the same numbers that `normal` gives; the caller disposes it. From 65,536 numbers on Box-Muller in
   * float32 by TensorFlow's ops: the radius from 31 bits, and 63 where they are few (the tail reaches 9.5 standard deviations), the
   * angle from 32. The logarithm, sine and cosine are TensorFlow's, so another processor's may round differently in
   * the last place.
   */
  normalTensor(n: number, std = 1): Tensor {
    const tf = tensorflow();
    if (n < NATIVE_FROM) return tf.tensor1d(this.normal(n, std));
    return tf.tidy(() => {
      const parts: Tensor[] = [];
      for (let made = 0; made < n; made += 2 * NATIVE_PAIRS) {
        const pairs = Math.min(NATIVE_PAIRS, NATIVE_GRAIN * Math.ceil((n - made) / (2 * NATIVE_GRAIN)));
        parts.push(...tf.tidy(() => this.#pairs(pairs, std)));
      }
      const all = tf.concat(parts, 0);
      return all.size === n ? all : tf.slice(all, [0], [n]);
    });
  }

  /** [pairs] normals twice. */
  #pairs(pairs: number, std: number): [Tensor, Tensor] {
    const tf = tensorflow();
    const bytes = keyStream(this.#cipher, 8 * pairs);
    const words = (from: Buffer, at: number) =>
      tf.cast(tf.tensor1d(new Int32Array(from.buffer, from.byteOffset + 4 * at * pairs, pairs), 'int32'), 'float32');
    const angle = tf.mul(words(bytes, 1), TWO_PI * 2 ** -32);
    const high = words(bytes, 0);
    let size = tf.abs(high);
    // |word| is uniform to 1 part in 1,024 or better, but for the smallest: then all of the block get 32 bits more below it.
    if (tf.min(size).dataSync()[0]! < COARSE) {
      const low = tf.mul(words(keyStream(this.#cipher, 4 * pairs), 0), 2 ** -32);
      size = tf.maximum(tf.abs(tf.add(high, low)), 2 ** -33);
    }
    const radius = tf.sqrt(tf.mul(tf.log(tf.mul(size, 2 ** -31)), -2 * std * std));
    return [tf.mul(radius, tf.cos(angle)), tf.mul(radius, tf.sin(angle))];
  }

  normal(n: number, std = 1): Float32Array {
    if (n >= NATIVE_FROM) {
      const made = this.normalTensor(n, std);
      const data = made.dataSync() as Float32Array;
      made.dispose();
      return data;
    }
    const out = new Float32Array(n);
    this.fillNormal(out, std);
    return out;
  }
}

/** An independent stream for a purpose, the same for the same seed and purpose (HMAC-SHA-256 of the purpose). */
export function streamFor(seed: Uint8Array, purpose: string): SecureStream {
  return new SecureStream(createHmac('sha256', seed).update(purpose).digest());
}

/** Poisson sample: each of 0 ... n - 1 independently with probability q. May be empty; that step is taken all the same. */
export function poissonSample(n: number, q: number, stream: SecureStream): number[] {
  const chosen: number[] = [];
  for (let i = 0; i < n; i++) if (stream.uniform() < q) chosen.push(i);
  return chosen;
}
