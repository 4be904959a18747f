import { LearndError } from '../base/errors.ts';

/** Bounds what is accepted at once (answered side by side plus waiting), and knows when the last of it has ended. */
export class Admission {
  readonly #sideBySide: number;
  readonly #limit: number;
  readonly #idle = new Set<() => void>();
  #inFlight = 0;
  #closed = false;
  /** Moving average of how long one took, for `retry-after`. Milliseconds. */
  #typicalMs = 1_000;

  constructor(sideBySide: number, queue: number) {
    this.#sideBySide = sideBySide;
    this.#limit = sideBySide + queue;
  }

  get inFlight(): number {
    return this.#inFlight;
  }

  /** Runs `work` if there is room. @throws 'busy' with the seconds to wait, 'not_ready' while stopping. */
  async run<T>(work: () => Promise<T>): Promise<T> {
    if (this.#closed) throw new LearndError('not_ready', 'the daemon is stopping');
    if (this.#inFlight >= this.#limit) {
      const rounds = Math.ceil(this.#inFlight / this.#sideBySide);
      const seconds = Math.min(60, Math.max(1, Math.ceil((rounds * this.#typicalMs) / 1_000)));
      throw new LearndError('busy', `${this.#inFlight} requests are under way; no more are queued`, {
        data: { code: 'rate_limit_exceeded', retryAfter: seconds },
      });
    }
    const began = performance.now();
    this.#inFlight++;
    try {
      return await work();
    } finally {
      this.#typicalMs += 0.1 * (performance.now() - began - this.#typicalMs);
      if (--this.#inFlight === 0) for (const tell of this.#idle) tell();
    }
  }

  /** Nothing new from now on; resolves true when all has ended, false when `withinMs` is over first. */
  async drain(withinMs: number): Promise<boolean> {
    this.#closed = true;
    if (this.#inFlight === 0) return true;
    return new Promise(resolve => {
      const timer = setTimeout(() => resolve(false), withinMs);
      this.#idle.add(() => {
        clearTimeout(timer);
        resolve(true);
      });
    });
  }
}
