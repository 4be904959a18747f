import { invalid } from '../base/errors.ts';
import { summarizeTimings, type Timed } from '../learn/metrics/timing.ts';
import { PUBLIC_SENTENCES } from '../learn/training/public-text.ts';
import { type AnswererOptions, askTimed, openAnswerer } from './answerer.ts';
import { table } from './frame.ts';
import { textLines } from './text-lines.ts';

interface Pair {
  readonly p50: number | null;
  readonly p95: number | null;
}

export interface SpeedReport {
  readonly model: string;
  readonly requests: number;
  readonly errors: number;
  readonly error_rate: number | null;
  readonly response_ms: Pair;
  readonly first_token_ms: Pair;
  readonly tokens_per_second: Pair;
  readonly tokens: number;
  readonly seconds: number;
  readonly failures: Readonly<Record<string, number>>;
}

export interface SpeedOptions extends AnswererOptions {
  /** Prompts, a line each; default: public sentences. */
  readonly file?: string;
  readonly requests?: number;
  readonly tokens?: number;
  /** Answers asked for at once; above 1 only of a daemon. */
  readonly parallel?: number;
}

/** Times answers: from sending the prompt to its first and its last token. The first request warms up and is not counted. */
export async function measure(options: SpeedOptions): Promise<{ report: SpeedReport; timings: readonly Timed[] }> {
  const { requests = 20, tokens = 64, parallel = 1 } = options;
  if (requests < 1) throw invalid('requests', `must be at least 1, not ${requests}`);
  if (tokens < 1) throw invalid('tokens', `must be at least 1, not ${tokens}`);
  if (parallel < 1 || (parallel > 1 && options.data === undefined))
    throw invalid('parallel', 'more than one request at a time goes to a daemon only (--data)');
  const prompts = options.file === undefined ? PUBLIC_SENTENCES : textLines(options.file);
  const answerer = await openAnswerer(options);
  const timings: Timed[] = [];
  const began = performance.now();
  let warm = began;
  try {
    await askTimed(answerer, prompts[0]!, 2);
    warm = performance.now();
    let next = 0;
    const work = async (): Promise<void> => {
      while (next < requests) {
        const n = next++;
        timings.push((await askTimed(answerer, prompts[n % prompts.length]!, tokens)).timed);
        if (timings.length % 10 === 0) process.stderr.write(`answered ${timings.length} of ${requests}\n`);
      }
    };
    await Promise.all(Array.from({ length: parallel }, work));
  } finally {
    await answerer.close();
  }
  const s = summarizeTimings(timings);
  const report: SpeedReport = {
    model: answerer.name,
    requests: s.requests,
    errors: s.errors,
    error_rate: s.errorRate,
    response_ms: s.responseMs,
    first_token_ms: s.firstTokenMs,
    tokens_per_second: s.tokensPerSecond,
    tokens: s.tokens,
    seconds: (performance.now() - warm) / 1000,
    failures: s.failures,
  };
  return { report, timings };
}

export const run = async (options: SpeedOptions): Promise<SpeedReport> => (await measure(options)).report;

export const human = (r: SpeedReport): string => {
  const row = (name: string, { p50, p95 }: Pair) => [name, p50?.toFixed(1), p95?.toFixed(1)];
  return [
    `${r.model}: ${r.requests} requests, ${r.errors} failed`,
    table([
      ['', 'p50', 'p95'],
      row('response ms', r.response_ms),
      row('first token ms', r.first_token_ms),
      row('tokens/s', r.tokens_per_second),
    ]),
    ...Object.entries(r.failures).map(([line, n]) => `${n}x ${line}`),
  ].join('\n');
};
