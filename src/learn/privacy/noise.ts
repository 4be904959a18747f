/**
 * Randomness that whoever sees the model cannot predict: an AES-256-CTR key stream keyed from the system's generator. A kept
 * seed replays a step's sample and noise after a crash; it is as secret as the data, because it allows the noise to be
 * subtracted: destroy it when the round ends.
 */
import { type Cipher, createCipheriv, createHmac, randomBytes } from 'node:crypto';
import { invalid } from '../../base/errors.ts';

export const SEED_BYTES = 32;
const CHUNK = 1 << 16;
const ZEROS = Buffer.alloc(CHUNK);
const IV = Buffer.alloc(16);
const TWO_PI = 2 * Math.PI;

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
   * Fills with N(0, std^2) by Box-Muller: the radius from 53 bits (so the tail reaches 8.5 standard deviations), the angle from 32.
   * About 25 ns a number on one core.
   */
  fillNormal(out: Float32Array | Float64Array, std = 1): void {
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
export function streamFor(seed: Uint8Array, purpose: string): SecureStream {
  return new SecureStream(createHmac('sha256', seed).update(purpose).digest());
}

/** Poisson sample: each of 0 ... n - 1 independently with probability q. May be empty; that step is taken all the same. */
export function poissonSample(n: number, q: number, stream: SecureStream): number[] {
  const chosen: number[] = [];
  for (let i = 0; i < n; i++) if (stream.uniform() < q) chosen.push(i);
  return chosen;
}
