import { readFileSync } from 'node:fs';
import { invalid } from '../base/errors.ts';
import { type Accountant, epsilon, type Mechanism, noiseMultiplier } from '../learn/privacy/accountant.ts';

/** `privacy epsilon` and `privacy noise`: the accountants that rounds are charged by, on mechanisms given by hand or in a file. */

export interface EpsilonOptions {
  readonly noiseMultiplier?: number;
  readonly sampleRate?: number;
  readonly steps?: number;
  readonly delta: number;
  readonly accountant?: Accountant;
  /** A JSON list of {noise_multiplier, sample_rate, steps}, instead of the first three. */
  readonly file?: string;
}

const KEYS = ['noise_multiplier', 'sample_rate', 'steps'] as const;

function mechanismsOf(file: string): Mechanism[] {
  let list: unknown;
  try {
    list = JSON.parse(readFileSync(file, 'utf8'));
  } catch (cause) {
    throw invalid('file', `cannot read ${file} as JSON: ${(cause as Error).message}`, { cause });
  }
  if (!Array.isArray(list)) throw invalid('file', `${file} must hold a JSON list of {${KEYS.join(', ')}}`);
  return list.map((item: unknown, i) => {
    if (typeof item !== 'object' || item === null) throw invalid(`[${i}]`, `must be an object with ${KEYS.join(', ')}`);
    for (const key of Object.keys(item)) {
      if (!(KEYS as readonly string[]).includes(key))
        throw invalid(`[${i}].${key}`, `is not one of ${KEYS.join(', ')}`);
    }
    for (const key of KEYS) {
      if (typeof (item as Record<string, unknown>)[key] !== 'number')
        throw invalid(`[${i}].${key}`, 'must be a number');
    }
    return item as Mechanism;
  });
}

function required(value: number | undefined, option: string): number {
  if (value === undefined) throw invalid(option, 'is missing');
  return value;
}

/** Upper bound on what the mechanisms spend together at delta. */
export async function epsilonCommand(options: EpsilonOptions): Promise<{ epsilon: number }> {
  const byHand = [options.noiseMultiplier, options.sampleRate, options.steps];
  if (options.file !== undefined && byHand.some(value => value !== undefined))
    throw invalid('--file', 'takes the place of --noise-multiplier, --sample-rate and --steps: give one or the others');
  const mechanisms =
    options.file === undefined
      ? [
          {
            noise_multiplier: required(options.noiseMultiplier, '--noise-multiplier'),
            sample_rate: required(options.sampleRate, '--sample-rate'),
            steps: required(options.steps, '--steps'),
          },
        ]
      : mechanismsOf(options.file);
  const spent = epsilon(mechanisms, options.delta, options.accountant);
  if (!Number.isFinite(spent)) throw invalid('noise_multiplier', 'is so small that no finite epsilon can be stated');
  return { epsilon: spent };
}

export interface NoiseOptions {
  readonly epsilon: number;
  readonly sampleRate?: number;
  readonly steps?: number;
  readonly delta: number;
  readonly accountant?: Accountant;
}

/** Smallest noise multiplier that keeps the steps at or below epsilon. */
export async function noiseCommand(options: NoiseOptions): Promise<{ noise_multiplier: number }> {
  return {
    noise_multiplier: noiseMultiplier({
      epsilon: options.epsilon,
      delta: options.delta,
      sampleRate: required(options.sampleRate, '--sample-rate'),
      steps: required(options.steps, '--steps'),
      accountant: options.accountant,
    }),
  };
}
