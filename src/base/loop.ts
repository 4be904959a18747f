import { sleep } from './clock.ts';

/** A background loop: `turn` runs, then waits `everyMs`, until stopped. A turn that throws is reported and retried later. */
export interface Loop {
  /** Runs the next turn now instead of after the wait. */
  wake(): void;
  /** Aborts the wait, lets the turn in progress finish, resolves when it has. */
  stop(): Promise<void>;
}

export function startLoop(options: {
  name: string;
  everyMs: number;
  turn: (signal: AbortSignal) => Promise<void>;
  onError: (error: unknown) => void;
}): Loop {
  const stop = new AbortController();
  let wake = new AbortController();
  const run = (async () => {
    while (!stop.signal.aborted) {
      wake = new AbortController();
      try {
        await options.turn(stop.signal);
      } catch (error) {
        if (!stop.signal.aborted) options.onError(error);
      }
      await sleep(options.everyMs, AbortSignal.any([stop.signal, wake.signal]));
    }
  })();
  return {
    wake: () => wake.abort(),
    stop: async () => {
      stop.abort();
      await run;
    },
  };
}
