import { LearndError } from '../base/errors.ts';
import { epsilon, type Mechanism } from '../learn/privacy/index.ts';
import type { TrainProgress } from '../learn/training/index.ts';

const LINE_EVERY_MS = 1000;

export interface Watched {
  /** What every step releases; absent without privacy. */
  readonly mechanisms?: readonly Mechanism[];
  /** Released before the steps. */
  readonly prior?: readonly Mechanism[];
  readonly delta?: number;
  readonly target?: number;
  readonly maxSeconds?: number;
}

/** A line on standard error about every second. Losses of private training are for the eyes of whoever holds the data: noise does not cover them. */
export function progressLines(watched: Watched, write: (line: string) => unknown = line => process.stderr.write(line)) {
  let last = 0;
  const { mechanisms, prior = [], delta, target, maxSeconds } = watched;
  return (p: TrainProgress): void => {
    const now = performance.now();
    if (now - last < LINE_EVERY_MS && p.step < p.steps && p.step > 1) return;
    last = now;
    const byStep = (p.secondsElapsed / p.step) * (p.steps - p.step);
    const left = maxSeconds === undefined ? byStep : Math.max(0, Math.min(byStep, maxSeconds - p.secondsElapsed));
    const parts = [
      `step ${p.step}/${p.steps}`,
      mechanisms === undefined
        ? `loss ${p.loss?.toFixed(4) ?? '-'}`
        : `loss ${p.loss?.toFixed(4) ?? '-'} (not covered by the noise)`,
      `${Math.round(p.tokensPerSecond)} tokens/s`,
    ];
    if (mechanisms !== undefined) {
      const spent = epsilon([...prior, ...mechanisms.map(m => ({ ...m, steps: p.step }))], delta!);
      parts.push(`epsilon ${spent.toFixed(3)}${target === undefined ? '' : ` of ${target}`}`);
    }
    parts.push(`${duration(left)} left`);
    write(`${parts.join('  ')}\n`);
  };
}

export const duration = (seconds: number): string =>
  seconds < 90 ? `${Math.round(seconds)} s` : `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;

export interface Interrupts {
  readonly signal: AbortSignal;
  end(): void;
}

/** The first Ctrl-C (or SIGTERM) stops the training at the next safe place, the second ends the program at once. */
export function interrupts(say: string): Interrupts {
  const stop = new AbortController();
  const handle = (): void => {
    if (stop.signal.aborted) process.exit(130);
    process.stderr.write(`${say}\n`);
    stop.abort();
  };
  process.on('SIGINT', handle);
  process.on('SIGTERM', handle);
  return {
    signal: stop.signal,
    end: () => {
      process.removeListener('SIGINT', handle);
      process.removeListener('SIGTERM', handle);
    },
  };
}

/** What an interrupted training says last. */
export const interrupted = (out: string, cause: unknown): LearndError =>
  new LearndError('canceled', `interrupted: ${(cause as Error).message}`, {
    hint: `Go on with: learnd train --resume ${out} (with --minutes 0: take what has been learned so far). Its checkpoint is as secret as the data.`,
    cause,
  });
