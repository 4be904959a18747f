/**
 * Randomness that whoever sees the model cannot predict: an AES-256-CTR key stream keyed from the system's generator. A kept
 * seed replays a step's sample and noise after a crash; it is as secret as the data, because it allows the noise to be
 * subtracted: destroy it when the round ends.
 */
import { type Cipher, createCipheriv, createHmac, randomBytes } from 'node:crypto';
import { invalid } from '../../base/errors.ts';
import { type Bits, fillZiggurat, MOST_WORDS } from './ziggurat.ts';

export const SEED_BYTES = 32;
/** Of the key stream at a time: memory of 128 KB and more comes new from the system, page by page, which takes longer than AES. */
const ZEROS = Buffer.alloc(4 * MOST_WORDS);
const IV = Buffer.alloc(16);
const TWO_PI = 2 * Math.PI;
/** From this many normals on they are made by the ziggurat: 6 ns a number instead of 25. */
const MANY = 1 << 16;

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
   * deviations), the angle from 32. From there on by the ziggurat: which way is a matter of the number alone, so that a seed gives the
   * same noise wherever it is replayed.
   */
  fillNormal(out: Float32Array | Float64Array, std = 1): void {
    const n = out.length;
    if (n >= MANY) this.#fillMany(out, std);
    else this.#fillFew(out, std);
  }

  #fillMany(out: Float32Array | Float64Array, std: number): void {
    const more: Bits = {
      word: () => this.#word() | 0,
      positive: () => ((this.#word() >>> 5) * 2 ** 26 + (this.#word() >>> 6) + 1) * 2 ** -53,
    };
    for (let at = 0; at < out.length; at += MOST_WORDS) {
      const count = Math.min(MOST_WORDS, out.length - at);
      const bytes = this.#cipher.update(ZEROS);
      fillZiggurat(out, at, new Int32Array(bytes.buffer, bytes.byteOffset, count), std, more);
    }
  }

  #fillFew(out: Float32Array | Float64Array, std: number): void {
    const n = out.length;
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

  normal(n: number, std = 1): Float32Array {
    const out = new Float32Array(n);
    this.fillNormal(out, std);
    return out;
  }
}

/** An independent stream for a purpose, the same for the same seed and purpose (HMAC-SHA-256 of the purpose). */
export const streamFor = (seed: Uint8Array, purpose: string): SecureStream => new SecureStream(keyFor(seed, purpose));

/** The key of `streamFor`. */
export const keyFor = (seed: Uint8Array, purpose: string): Uint8Array =>
  createHmac('sha256', seed).update(purpose).digest();

/** Poisson sample: each of 0 ... n - 1 independently with probability q. May be empty; that step is taken all the same. */
export function poissonSample(n: number, q: number, stream: SecureStream): number[] {
  const chosen: number[] = [];
  for (let i = 0; i < n; i++) if (stream.uniform() < q) chosen.push(i);
  return chosen;
}
