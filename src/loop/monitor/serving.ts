/** How serving did in the last quarter of an hour: response time and error rate, in bounded memory. */

export interface ServedSample {
  readonly latencyMs: number;
  /** undefined: no token came. */
  readonly firstTokenMs?: number | undefined;
  readonly tokens?: number;
  /** Code of the error, where it failed through no fault of the caller's. */
  readonly error?: string | undefined;
}

export interface ServingFigures {
  /** Milliseconds; null: nothing was served. Failed answers count in `errors.rate` only. */
  readonly 'latency.p50_ms': number | null;
  readonly 'latency.p95_ms': number | null;
  readonly 'latency.first_token_p95_ms': number | null;
  readonly 'errors.rate': number | null;
}

interface Entry {
  readonly at: number;
  readonly latencyMs: number;
  readonly firstTokenMs: number | undefined;
  readonly failed: boolean;
}

export class ServingStats {
  readonly #windowMs: number;
  readonly #most: number;
  readonly #now: () => number;
  #entries: Entry[] = [];
  /** Where the window begins in `#entries`; cut off in blocks, so that recording costs constant time. */
  #start = 0;

  /** @param options.most - entries kept: under more load than that the window gets shorter, never the memory larger. */
  constructor(options: { windowMs?: number; most?: number; now?: () => number } = {}) {
    this.#windowMs = options.windowMs ?? 15 * 60_000;
    this.#most = options.most ?? 10_000;
    this.#now = options.now ?? Date.now;
  }

  record(sample: ServedSample): void {
    this.#entries.push({
      at: this.#now(),
      latencyMs: sample.latencyMs,
      firstTokenMs: sample.firstTokenMs,
      failed: sample.error !== undefined,
    });
    this.#trim();
  }

  #trim(): void {
    const oldest = this.#now() - this.#windowMs;
    while (
      this.#start < this.#entries.length &&
      (this.#entries[this.#start]!.at < oldest || this.#entries.length - this.#start > this.#most)
    )
      this.#start++;
    if (this.#start > 1024 && this.#start > this.#entries.length / 2) {
      this.#entries = this.#entries.slice(this.#start);
      this.#start = 0;
    }
  }

  figures(): ServingFigures {
    this.#trim();
    const entries = this.#entries.slice(this.#start);
    const answered = entries.filter(e => !e.failed);
    const latency = answered.map(e => e.latencyMs).sort((a, b) => a - b);
    const first = answered.flatMap(e => e.firstTokenMs ?? []).sort((a, b) => a - b);
    return {
      'latency.p50_ms': quantile(latency, 0.5),
      'latency.p95_ms': quantile(latency, 0.95),
      'latency.first_token_p95_ms': quantile(first, 0.95),
      'errors.rate': entries.length === 0 ? null : entries.filter(e => e.failed).length / entries.length,
    };
  }
}

/** Of sorted values, linear between neighbours (numpy's default); null of none. */
export function quantile(sorted: readonly number[], q: number): number | null {
  if (sorted.length === 0) return null;
  const at = (sorted.length - 1) * q;
  const low = Math.floor(at);
  const high = Math.ceil(at);
  return sorted[low]! + (sorted[high]! - sorted[low]!) * (at - low);
}
