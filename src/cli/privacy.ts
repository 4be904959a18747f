import { readFileSync } from 'node:fs';
import { invalid, LearndError } from '../base/errors.ts';
import { type Accountant, epsilon, type Mechanism, noiseMultiplier } from '../learn/privacy/accountant.ts';
import type { CanaryAudit } from '../loop/round/canaries.ts';
import type { PrivacyReport } from '../store/privacy-report.ts';
import type { DaemonClient } from './client.ts';
import { short, table } from './frame.ts';

/**
 * `privacy epsilon` and `privacy noise`: the accountants that rounds are charged by, on mechanisms given by hand or in a file.
 * `privacy report` and `privacy verify`: the daemon's ledger.
 */

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
/** What the ledger's mechanisms may say beside the numbers: read back, so that a ledger's JSON can be given as it is. */
const MORE = ['kind', 'parts'] as const;

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
      if (!([...KEYS, ...MORE] as readonly string[]).includes(key))
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

/** As the daemon answers it: dates are text, and what the canary users of all rounds show stands beside. */
export type Report = Omit<PrivacyReport, 'rounds'> & {
  readonly rounds: ReadonlyArray<Omit<PrivacyReport['rounds'][number], 'at'> & { readonly at: string }>;
  readonly audit: CanaryAudit | null;
};

export const report = async (client: DaemonClient): Promise<Report> =>
  (await client.get('/v1/admin/privacy')) as Report;

export function humanReport({ delta, epsilon: total, rounds, users, declarations, audit }: Report): string {
  const { p50, p90, p99, max } = users.quantiles;
  return [
    rounds.length === 0
      ? 'no private round yet'
      : table([
          ['round', 'epsilon', 'state', 'steps', 'at'],
          ...rounds.map(row => [
            row.round,
            short(row.epsilon),
            row.state,
            row.mechanisms.reduce((sum, m) => sum + m.steps, 0),
            row.at,
          ]),
        ]),
    `all rounds together: epsilon ${total.toFixed(4)} at delta ${delta}; ${declarations} declarations outside the guarantee`,
    `${users.count} users with rows in a round; half spent at most ${p50.toFixed(4)}, 90% ${p90.toFixed(4)}, 99% ${p99.toFixed(4)}, any ${max.toFixed(4)}`,
    audit === null
      ? 'no canary users yet'
      : `canary users: ${audit.right} of ${audit.canaries} guessed right in ${audit.rounds} rounds, so epsilon is at least ${audit.bound.toFixed(3)} ` +
        `(so many can show at most ${audit.largest.toFixed(3)}; ${audit.claim.toFixed(3)} is claimed)${audit.frozen ? '; PUBLISHING IS FROZEN' : ''}` +
        exposed(audit.exposure),
  ].join('\n');
}

/** Rounds before this was told have none. */
function exposed(of: CanaryAudit['exposure'] | undefined): string {
  if (!of?.in) return '';
  const bits = ({ rank, extrapolated }: NonNullable<typeof of.in>): string =>
    `${rank.toFixed(1)} bits by rank, ${extrapolated.toFixed(1)} extrapolated`;
  return `; exposure of those that took part ${bits(of.in)}${of.out ? `, of the others ${bits(of.out)}` : ''} (chance: 1)`;
}

export interface VerifiedLedger {
  readonly rows: number;
  readonly head: string;
}

/** @throws LearndError('corrupt') naming the first row that does not hold */
export async function verify(client: DaemonClient): Promise<VerifiedLedger & { ok: true }> {
  const found = (await client.get('/v1/admin/privacy/verify')) as
    | ({ ok: true } & VerifiedLedger)
    | { ok: false; row: number; reason: string };
  if (found.ok) return found;
  throw new LearndError('corrupt', `the ledger does not hold at row ${found.row}: ${found.reason}`, {
    hint: 'Restore the database from a backup; what was spent cannot be shown from this ledger.',
    retriable: false,
  });
}

export const humanVerified = ({ rows, head }: VerifiedLedger): string =>
  `${rows} rows, every one follows on the one before it; newest hash ${head}`;
