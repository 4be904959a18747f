import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { canonicalJson } from '../../src/base/canonical.ts';
import { connect, type Database } from '../../src/store/database.ts';
import { verifyLedger } from '../../src/store/ledger.ts';
import { eventually, type TestDaemon } from './daemon.ts';
import { testLog } from './database.ts';

/** What the fault tests share: a daemon's processes as the kernel sees them, its database, and what must hold after any fault. */

export interface Process {
  readonly pid: number;
  readonly parent: number;
  /** Clock ticks from boot: with the pid it names one process for good. */
  readonly started: string;
  readonly command: string;
}

/** One line of the process table; undefined when it is not there, or has ended and only waits to be reaped. */
function processAt(pid: number): Process | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    if (fields[0] === 'Z' || fields[0] === 'X') return undefined;
    const command = readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ').trim();
    return { pid, parent: Number(fields[1]), started: fields[19]!, command };
  } catch {
    return undefined; // it ended while we looked
  }
}

const alive = (process: Process): boolean => processAt(process.pid)?.started === process.started;

/** Everything below `root`, nearest first. */
export function descendants(root: number): Process[] {
  const all = readdirSync('/proc').flatMap(name => (/^\d+$/.test(name) ? (processAt(Number(name)) ?? []) : []));
  const found: Process[] = [];
  const below = (parent: number): void => {
    for (const child of all.filter(process => process.parent === parent)) {
      found.push(child);
      below(child.pid);
    }
  };
  below(root);
  return found;
}

const KINDS = {
  postgres: /(^|\/)postgres .*-D /,
  engine: /serve\/engine\/main\.ts/,
  worker: /learn\/worker\/main\.ts/,
} as const;

/** The daemon's children of a kind, newest last. */
export const children = (daemon: TestDaemon, kind: keyof typeof KINDS): Process[] =>
  descendants(daemon.process.pid!)
    .filter(process => process.parent === daemon.process.pid && KINDS[kind].test(process.command))
    .sort((a, b) => Number(a.started) - Number(b.started));

/** kill -9 of the daemon alone. Resolves with what it had started once all of it is gone by itself. */
export async function killDaemon(daemon: TestDaemon): Promise<void> {
  const left = descendants(daemon.process.pid!);
  await daemon.stop('SIGKILL');
  await eventually(
    'the children of a killed daemon end by themselves',
    async () => {
      const still = left.filter(alive);
      if (still.length > 0) throw new Error(still.map(({ pid, command }) => `${pid} ${command}`).join('; '));
      return true;
    },
    60_000,
  );
}

/** The daemon's own database: the embedded server's password and port stand in the data directory. */
export async function withDatabase<T>(data: string, work: (db: Database) => Promise<T>): Promise<T> {
  const password = readFileSync(join(data, 'pg.password'), 'utf8').trim();
  const port = readFileSync(join(data, 'pg', 'postmaster.pid'), 'utf8').split('\n')[3];
  const db = connect(`postgres://learnd:${password}@127.0.0.1:${port}/postgres`, { log: testLog, max: 4 });
  try {
    return await work(db);
  } finally {
    await db.close();
  }
}

export interface RoundState {
  readonly id: number;
  readonly state: string;
  readonly progress: { readonly done: number; readonly total: number } | null;
  readonly error: string | null;
  readonly attempts: number;
  readonly finished_at: Date | null;
}

export async function newestRound(db: Database): Promise<RoundState | undefined> {
  const { rows } = await db.query<RoundState>(
    'select id, state, progress, error, attempts, finished_at from rounds order by id desc limit 1',
  );
  return rows[0];
}

/** Polls the newest round until `wanted` holds; fails at once when it has ended otherwise. */
export const roundIs = (
  db: Database,
  what: string,
  wanted: (round: RoundState) => boolean,
  ms = 240_000,
): Promise<RoundState> => {
  let dead: RoundState | undefined;
  return eventually(
    what,
    async () => {
      const round = await newestRound(db);
      if (round === undefined) return undefined;
      if (wanted(round)) return round;
      if (round.finished_at !== null) dead = round;
      return dead;
    },
    ms,
    15,
  ).then(round => {
    assert.ok(wanted(round), `${what}: round ${round.id} is ${round.state} (${round.error ?? 'no error'})`);
    return round;
  });
};

/** What every fault must leave whole: ledger, versions, alias, rounds. */
export async function assertSound(db: Database): Promise<void> {
  const chain = await verifyLedger(db);
  assert.ok(chain.ok, JSON.stringify(chain));
  const entries = await db.query<{ round: number; reserves: number; settles: number; ended: boolean }>(
    `select r.id as round, r.finished_at is not null as ended,
       count(*) filter (where l.entry = 'reserve') as reserves, count(*) filter (where l.entry = 'settle') as settles
     from rounds r join ledger l on l.round = r.id where l.entry <> 'declare' group by r.id`,
  );
  for (const { round, reserves, settles, ended } of entries.rows) {
    assert.equal(reserves, 1, `round ${round} reserved ${reserves} times`);
    assert.ok(ended ? settles === 1 : settles <= 1, `round ${round} was settled ${settles} times`);
  }
  const versions = await db.query<{ n: number; sha256: string; manifest: unknown }>(
    'select * from versions order by n',
  );
  assert.deepEqual(
    versions.rows.map(row => row.n),
    versions.rows.map((_, i) => i + 1),
    'version numbers are consecutive',
  );
  const contents = new Set(versions.rows.map(row => canonicalJson(row.manifest)));
  assert.equal(contents.size, versions.rows.length, 'no version twice');
  const champions = await db.query<{ n: number; state: string }>(
    `select v.n, v.state from aliases a join versions v on v.n = a.version where a.alias = 'champion'`,
  );
  assert.equal(champions.rows.length, 1, 'one champion');
  assert.equal(champions.rows[0]!.state, 'ready');
  const running = await db.query<{ n: number }>('select count(*) as n from rounds where finished_at is null');
  assert.ok(running.rows[0]!.n <= 1, 'one round at most');
  // What each round says it made is there, made by it.
  const orphans = await db.query(
    `select r.id from rounds r left join versions v on v.n = r.candidate and v.round = r.id
     where (r.state = 'published' and r.candidate is not null or r.state = 'rejected') and v.n is null`,
  );
  assert.deepEqual(orphans.rows, []);
}

/** A deployment whose rounds are quick: the small model, private documents, a gate that lets noise through. */
export const QUICK_SETTINGS = `
base: scratch
sources: [{ name: inbox }]
privacy: { expected_users: 150, examples_per_user: 4 }
monitor: { every_seconds: 0.3, sample: 256, window: 200, minimum: 20 }
policy: { every_seconds: 0.3 }
`;

/** @param rule when the one rule of the deployment begins its private round; `false`: only when it is asked for. */
export const quickPolicies = (rule = 'false'): string => `
rules:
  - name: read-the-inbox
    when: ${rule === 'false' ? 'champion.version == 0' : rule}
    do: [{ finetune: { data: documents, method: norms, epsilon: 3, max_minutes: 2 } }]
    cooldown: 1h
gate: [candidate.perplexity <= champion.perplexity * 10]
budget: { epsilon: 8, delta: 1e-6 }
`;
