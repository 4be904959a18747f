/** How fast answers come: response time, time to the first token, tokens a second, and how many requests failed. */
import { percentile } from './percentile.ts';

/** One request. Times in milliseconds from sending it. */
export type Timed =
  | { readonly ok: true; readonly firstMs: number; readonly totalMs: number; readonly tokens: number }
  | { readonly ok: false; readonly error: string };

export interface Quantiles {
  readonly p50: number | null;
  readonly p95: number | null;
}

export interface TimingSummary {
  readonly requests: number;
  readonly errors: number;
  readonly errorRate: number | null;
  readonly responseMs: Quantiles;
  readonly firstTokenMs: Quantiles;
  /** Of one answer after its first token; null for answers of one token. */
  readonly tokensPerSecond: Quantiles;
  readonly tokens: number;
  /** Distinct failures and how often each came. */
  readonly failures: Readonly<Record<string, number>>;
}

export function summarizeTimings(timings: readonly Timed[]): TimingSummary {
  const good = timings.filter(t => t.ok);
  const failures: Record<string, number> = {};
  for (const t of timings) if (!t.ok) failures[t.error] = (failures[t.error] ?? 0) + 1;
  const quantiles = (values: number[]): Quantiles => ({ p50: percentile(values, 50), p95: percentile(values, 95) });
  const rates = good.filter(t => t.tokens > 1 && t.totalMs > t.firstMs);
  return {
    requests: timings.length,
    errors: timings.length - good.length,
    errorRate: timings.length === 0 ? null : (timings.length - good.length) / timings.length,
    responseMs: quantiles(good.map(t => t.totalMs)),
    firstTokenMs: quantiles(good.map(t => t.firstMs)),
    tokensPerSecond: quantiles(rates.map(t => (1000 * (t.tokens - 1)) / (t.totalMs - t.firstMs))),
    tokens: good.reduce((sum, t) => sum + t.tokens, 0),
    failures,
  };
}
