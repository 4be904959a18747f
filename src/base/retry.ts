import { sleep } from './clock.ts';
import { asLearndError } from './errors.ts';

/** Retries `attempt` with doubling waits while its error is retriable. `signal` ends the waiting. */
export async function retry<T>(
  attempt: (n: number) => Promise<T>,
  options: {
    attempts: number;
    firstMs: number;
    maxMs: number;
    signal?: AbortSignal;
    onRetry?: (error: unknown, n: number) => void;
  },
): Promise<T> {
  for (let n = 1; ; n++) {
    try {
      return await attempt(n);
    } catch (thrown) {
      const error = asLearndError(thrown);
      if (n >= options.attempts || !error.retriable || options.signal?.aborted) throw thrown;
      options.onRetry?.(thrown, n);
      await sleep(Math.min(options.maxMs, options.firstMs * 2 ** (n - 1)), options.signal);
    }
  }
}
