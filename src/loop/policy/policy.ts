import type { Action } from '../../events/actions.ts';
import type { Expression } from './expression.ts';
import type { Schedule } from './schedule.ts';

/** A policy that passed every check. */
export interface Policy {
  readonly text: string;
  readonly sha256: string;
  readonly rules: readonly Rule[];
  readonly gate: readonly Expression[];
  readonly budget: Budget;
  readonly alarms: { readonly false_per_month: number | null };
}

export interface Rule {
  readonly name: string;
  readonly line: number;
  readonly when: Expression | undefined;
  readonly require: Expression | undefined;
  readonly schedule: Schedule | undefined;
  /** IANA name; what `schedule`, `time.hour` and `time.weekday` are read in. */
  readonly timezone: string;
  readonly actions: readonly Action[];
  readonly cooldownMs: number;
}

export interface Budget {
  /** At `delta`, composed over all rounds of the window, or of the deployment's life where there is none. */
  readonly epsilon: number;
  readonly delta: number;
  readonly unit: 'user';
  /** Milliseconds; null: the limit is on the lifetime total. */
  readonly windowMs: number | null;
}

export const DEFAULT_GATE = [
  'candidate.perplexity <= champion.perplexity * 1.02',
  'candidate.f1 >= champion.f1 - 0.01',
] as const;
export const DEFAULT_BUDGET: Budget = { epsilon: 8, delta: 1e-6, unit: 'user', windowMs: null };
export const DEFAULT_TIMEZONE = 'UTC';
/** Without one, a rule whose condition stays true would start the next round as the last one ends. */
export const DEFAULT_COOLDOWN_MS = 10 * 60_000;

const UNITS: Record<string, number> = { s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 };

/** `30s`, `90m`, `6h`, `365d` in milliseconds; undefined: not a duration. */
export function parseDuration(text: string): number | undefined {
  const match = /^(\d+(?:\.\d+)?)\s*([smhd])$/.exec(text);
  if (!match) return undefined;
  const ms = Number(match[1]) * UNITS[match[2]!]!;
  return ms > 0 ? ms : undefined;
}

/** `2h 5m`, `45s`: the two largest units, for sentences. */
export function showDuration(ms: number): string {
  let rest = Math.max(0, Math.round(ms / 1000));
  if (rest === 0) return '0s';
  const parts: string[] = [];
  for (const [unit, size] of [
    ['d', 86_400],
    ['h', 3600],
    ['m', 60],
    ['s', 1],
  ] as const) {
    const n = Math.floor(rest / size);
    rest -= n * size;
    if (n > 0) parts.push(`${n}${unit}`);
  }
  return parts.slice(0, 2).join(' ');
}
