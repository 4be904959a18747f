/** What every drift detector is: fed one number at a time, resettable to a stored state, its settings checked. */
import { invalid } from '../../base/errors.ts';

export interface Verdict {
  readonly drift: boolean;
  /** Which way the mean moved, where there is drift. */
  readonly direction: 'up' | 'down' | null;
}

/** Plain JSON. */
export type DetectorState = Readonly<Record<string, unknown>>;

export interface Detector {
  readonly name: string;
  /** @param x a finite number; detectors of error rates take 0 to 1. After drift the next value starts afresh, as in river. */
  update(x: number): Verdict;
  snapshot(): DetectorState;
  /** @throws LearndError corrupt where the state is not one of this detector */
  restore(state: DetectorState): void;
}

export const NO_DRIFT: Verdict = Object.freeze({ drift: false, direction: null });
export const UP: Verdict = Object.freeze({ drift: true, direction: 'up' });
export const DOWN: Verdict = Object.freeze({ drift: true, direction: 'down' });

/** A setting by river's name: default, and what its value must be. */
export interface SettingSpec {
  readonly value: number | string | boolean;
  readonly check: (value: never) => boolean;
  readonly must: string;
}

const between = (low: number, high: number) => (x: number) => x > low && x < high;
export const probability = (value: number): SettingSpec => ({
  value,
  check: between(0, 1),
  must: 'be a number strictly between 0 and 1',
});
export const count = (value: number, least = 1): SettingSpec => ({
  value,
  check: (x: number) => Number.isSafeInteger(x) && x >= least,
  must: `be a whole number, at least ${least}`,
});
export const positive = (value: number): SettingSpec => ({
  value,
  check: (x: number) => Number.isFinite(x) && x > 0,
  must: 'be a finite number above 0',
});
export const notNegative = (value: number): SettingSpec => ({
  value,
  check: (x: number) => Number.isFinite(x) && x >= 0,
  must: 'be a finite number, 0 or more',
});
export const oneOf = (value: string, values: readonly string[]): SettingSpec => ({
  value,
  check: (x: string) => values.includes(x),
  must: `be one of ${values.join(', ')}`,
});
export const yesNo = (value: boolean): SettingSpec => ({
  value,
  check: (x: boolean) => typeof x === 'boolean',
  must: 'be true or false',
});

export type Settings = Readonly<Record<string, number | string | boolean>>;

/** Defaults with what was given over them. @throws LearndError naming the setting that is unknown or out of range */
export function withDefaults<T extends Record<string, SettingSpec>>(
  specs: T,
  given: Settings,
): { [K in keyof T]: T[K]['value'] } {
  for (const [name, value] of Object.entries(given)) {
    const spec = specs[name];
    if (spec === undefined) throw invalid(name, `is not a setting of this detector: ${Object.keys(specs).join(', ')}`);
    if (typeof value !== typeof spec.value || !spec.check(value as never))
      throw invalid(name, `must ${spec.must}, not ${JSON.stringify(value)}`);
  }
  return Object.fromEntries(Object.entries(specs).map(([name, spec]) => [name, given[name] ?? spec.value])) as {
    [K in keyof T]: T[K]['value'];
  };
}

export function finite(x: number): number {
  if (!Number.isFinite(x)) throw invalid('x', `a detector takes finite numbers, not ${x}`);
  return x;
}

export function rate(x: number): number {
  if (!(x >= 0 && x <= 1)) throw invalid('x', `a detector of error rates takes numbers from 0 to 1, not ${x}`);
  return x;
}
