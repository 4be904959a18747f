/** Shared memory for a step's noise, used again as parts of it are done with. */
import { invalid } from '../../base/errors.ts';
import type { Tensor } from '../tensor/backend.ts';

/** TensorFlow takes memory over without a copy where it begins at a multiple of 64 bytes: 16 numbers. */
const ALIGNED_BYTES = 64;
const ALIGNED_NUMBERS = ALIGNED_BYTES / 4;
/**
 * A large SharedArrayBuffer begins 16 bytes after a page (glibc's header), so what follows 48 bytes later is aligned. Where that does
 * not hold the numbers are copied: time, and nothing else.
 */
const FIRST_BYTES = ALIGNED_BYTES - 16;

export interface Block {
  readonly data: Float32Array;
  /** Free as soon as this tensor, made of `data`, is disposed. */
  lend(tensor: Tensor): void;
  release(): void;
}

interface Held {
  readonly from: number;
  readonly size: number;
  free: boolean;
  tensor: Tensor | undefined;
}

/** Blocks one after the other, and from the beginning again: what was taken first must be free before its place is. */
export class NoiseRing {
  /** float32 numbers in all. */
  readonly numbers: number;
  readonly #memory: SharedArrayBuffer;
  /** The oldest first. */
  readonly #held: Held[] = [];
  #next = 0;

  /** @param numbers a multiple of 16, as `room` gives */
  constructor(numbers: number) {
    if (!(numbers >= ALIGNED_NUMBERS)) throw invalid('numbers', `must be at least ${ALIGNED_NUMBERS}, not ${numbers}`);
    this.numbers = numbers;
    this.#memory = new SharedArrayBuffer(FIRST_BYTES + 4 * numbers);
  }

  /** Numbers of memory that a block of n takes. */
  static room(n: number): number {
    return Math.ceil(n / ALIGNED_NUMBERS) * ALIGNED_NUMBERS;
  }

  /** Memory for n numbers, or undefined while too little is free. */
  take(n: number): Block | undefined {
    const size = NoiseRing.room(n);
    const from = this.#place(size);
    if (from === undefined) return undefined;
    const held: Held = { from, size, free: false, tensor: undefined };
    this.#held.push(held);
    this.#next = from + size;
    return {
      data: new Float32Array(this.#memory, FIRST_BYTES + 4 * from, n),
      lend: tensor => {
        held.tensor = tensor;
      },
      release: () => {
        held.free = true;
      },
    };
  }

  #place(size: number): number | undefined {
    const held = this.#held;
    while (held.length > 0 && (held[0]!.free || held[0]!.tensor?.isDisposed === true)) held.shift();
    const oldest = held[0];
    if (oldest === undefined) return size <= this.numbers ? 0 : undefined;
    // The free part is one piece up to the oldest block, or one at the end and one at the beginning.
    if (this.#next <= oldest.from) return this.#next + size <= oldest.from ? this.#next : undefined;
    if (this.#next + size <= this.numbers) return this.#next;
    return size <= oldest.from ? 0 : undefined;
  }
}
