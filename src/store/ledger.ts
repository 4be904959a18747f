import { createHash } from 'node:crypto';
import { canonicalJson } from '../base/canonical.ts';
import { LearndError } from '../base/errors.ts';
import type { Mechanism } from '../learn/privacy/mechanism.ts';
import { json, type Queryable } from './database.ts';

/**
 * The privacy ledger: append-only (the table refuses update and delete) and hash-chained,
 * hash = sha256(prev_hash + canonical JSON of the row), first prev_hash = 64 zeros. What counts as spent is the accountant's
 * composition of the mechanisms of every settled round (what it really released) and of every reservation not settled yet
 * (what it may have released); a plain sum of epsilons appears nowhere. A chain proves that no row was changed, removed from
 * the middle or inserted; that rows at the end were removed, only a copy of the newest hash kept elsewhere can prove.
 */
const LOCK = 0x1ea4_0005;
const GENESIS = '0'.repeat(64);

/** Composed epsilon at delta: src/learn/privacy/accountant.ts. */
export type Compose = (mechanisms: readonly Mechanism[], delta: number) => number;

export interface Declaration {
  readonly what: string;
  readonly why: string;
}

export interface LedgerRow {
  readonly id: number;
  readonly round: number | null;
  readonly entry: 'reserve' | 'settle' | 'declare';
  readonly mechanism: readonly Mechanism[] | Declaration;
  readonly delta: number | null;
  /** The composed lifetime epsilon after this row, at `delta`; null for a declaration. */
  readonly epsilon_total: number | null;
  readonly note: string;
  readonly at: Date;
  readonly prev_hash: string;
  readonly hash: string;
}

const hashOf = (row: Omit<LedgerRow, 'hash'>): string => {
  const { prev_hash, ...rest } = row;
  return createHash('sha256')
    .update(`${prev_hash}${canonicalJson(rest)}`)
    .digest('hex');
};

/** Every writer holds this lock until its commit: the chain has one end, and no two rounds spend the same remainder. */
const lock = (tx: Queryable) => tx.query('select pg_advisory_xact_lock($1)', [LOCK]);

type Entry = Pick<LedgerRow, 'round' | 'entry' | 'mechanism' | 'delta' | 'epsilon_total' | 'note'>;

async function append(tx: Queryable, entry: Entry): Promise<LedgerRow> {
  const { rows: last } = await tx.query<{ id: number; hash: string }>(
    'select id, hash from ledger order by id desc limit 1',
  );
  // Milliseconds: what a Date holds, so that the row reads back as it was hashed.
  const { rows: clock } = await tx.query<{ at: Date }>(`select date_trunc('milliseconds', clock_timestamp()) as at`);
  const row = { id: (last[0]?.id ?? 0) + 1, ...entry, at: clock[0]!.at, prev_hash: last[0]?.hash ?? GENESIS };
  const hash = hashOf(row);
  await tx.query(
    `insert into ledger (id, round, entry, mechanism, delta, epsilon_total, note, at, prev_hash, hash)
     values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`,
    [
      row.id,
      row.round,
      row.entry,
      json(row.mechanism),
      row.delta,
      row.epsilon_total,
      row.note,
      row.at,
      row.prev_hash,
      hash,
    ],
  );
  return { ...row, hash };
}

/**
 * What counts now, the round `except` left out. `windowMs`: of settled rounds only those settled within the last so many
 * milliseconds; an open reservation counts however old it is.
 */
async function counted(db: Queryable, options: { windowMs?: number | undefined; except?: number } = {}) {
  const { rows } = await db.query<{ mechanism: Mechanism[] }>(
    `select mechanism from ledger l
     where round is distinct from $2
       and ((entry = 'settle'
             and ($1::double precision is null or at > now() - make_interval(secs => $1::double precision / 1000)))
         or (entry = 'reserve' and not exists (select 1 from ledger s where s.entry = 'settle' and s.round = l.round)))
     order by id`,
    [options.windowMs ?? null, options.except ?? null],
  );
  return rows.flatMap(row => row.mechanism);
}

const compose = (mechanisms: readonly Mechanism[], delta: number, by: Compose): number =>
  mechanisms.length === 0 ? 0 : by(mechanisms, delta);

export interface Spent {
  /** Lifetime. */
  readonly epsilon: number;
  /** Within the window; the lifetime's where there is none. What the limit is held against. */
  readonly window: number;
  readonly delta: number;
  readonly mechanisms: readonly Mechanism[];
}

/** What has been spent, open reservations included. */
export async function spent(
  db: Queryable,
  options: { delta: number; compose: Compose; windowMs?: number | undefined },
): Promise<Spent> {
  const { delta, windowMs } = options;
  const mechanisms = await counted(db);
  const epsilon = compose(mechanisms, delta, options.compose);
  const window = windowMs === undefined ? epsilon : compose(await counted(db, { windowMs }), delta, options.compose);
  return { epsilon, window, delta, mechanisms };
}

/**
 * Reserves a round's cost before anything is released: at most one reservation a round.
 * @throws LearndError('budget_exhausted') when what is spent and this together pass `limit`: over the lifetime, or within
 * `windowMs` where one is given. `data`: spent, asked, total, limit, delta, lifetime.
 */
export async function reserve(
  tx: Queryable,
  options: {
    round: number;
    mechanisms: readonly Mechanism[];
    delta: number;
    limit: number;
    windowMs?: number | undefined;
    compose: Compose;
    note?: string;
  },
): Promise<LedgerRow> {
  const { round, mechanisms, delta, limit, windowMs } = options;
  await lock(tx);
  const { rows: earlier } = await tx.query('select 1 from ledger where round = $1 and entry = $2', [round, 'reserve']);
  if (earlier.length > 0)
    throw new LearndError('conflict', `round ${round} has reserved its privacy cost already`, { retriable: false });
  const lifetime = await counted(tx);
  const within = windowMs === undefined ? lifetime : await counted(tx, { windowMs });
  const total = compose([...within, ...mechanisms], delta, options.compose);
  // Written so that an epsilon that is not a number is refused too.
  if (mechanisms.length > 0 && !(total <= limit)) {
    const before = compose(within, delta, options.compose);
    const asked = compose(mechanisms, delta, options.compose);
    const where = windowMs === undefined ? '' : ` within ${windowMs / 86_400_000} days`;
    throw new LearndError(
      'budget_exhausted',
      `the privacy budget does not allow round ${round}: epsilon ${before.toPrecision(4)} is spent or reserved${where}, it asks for ` +
        `${asked.toPrecision(4)}, together that composes to ${total.toPrecision(4)}, and the limit is ${limit} at delta ${delta}`,
      {
        hint: 'Ask for a smaller epsilon, or raise budget.epsilon in the policy if your users agreed to more',
        retriable: false,
        data: { spent: before, asked, total, limit, delta, lifetime: compose(lifetime, delta, options.compose) },
      },
    );
  }
  return append(tx, {
    round,
    entry: 'reserve',
    mechanism: mechanisms,
    delta,
    epsilon_total: windowMs === undefined ? total : compose([...lifetime, ...mechanisms], delta, options.compose),
    note: options.note ?? `round ${round}`,
  });
}

/**
 * Puts what a round really released in the place of its reservation: [] when it ended before its first noised step. More than was
 * reserved is recorded all the same: the ledger tells what happened.
 * @throws LearndError('conflict') when the round reserved nothing or is settled.
 */
export async function settle(
  tx: Queryable,
  options: { round: number; mechanisms: readonly Mechanism[]; delta: number; compose: Compose; note?: string },
): Promise<LedgerRow> {
  const { round, mechanisms, delta } = options;
  await lock(tx);
  const { rows } = await tx.query<{ entry: string }>('select entry from ledger where round = $1', [round]);
  const has = (entry: string) => rows.some(row => row.entry === entry);
  if (!has('reserve')) throw new LearndError('conflict', `round ${round} has reserved no privacy cost`);
  if (has('settle')) throw new LearndError('conflict', `round ${round} is settled already`);
  const all = [...(await counted(tx, { except: round })), ...mechanisms];
  return append(tx, {
    round,
    entry: 'settle',
    mechanism: mechanisms,
    delta,
    epsilon_total: compose(all, delta, options.compose),
    note: options.note ?? `round ${round}`,
  });
}

/** A decision on private data that no noise covers, or training without noise on declared public data: said, not counted. */
export async function declare(
  tx: Queryable,
  options: { round?: number | undefined; what: string; why: string },
): Promise<LedgerRow> {
  await lock(tx);
  return append(tx, {
    round: options.round ?? null,
    entry: 'declare',
    mechanism: { what: options.what, why: options.why },
    delta: null,
    epsilon_total: null,
    note: 'declared: outside the guarantee',
  });
}

/** Newest first. */
export async function listLedger(db: Queryable, limit = 1_000): Promise<LedgerRow[]> {
  return (await db.query<LedgerRow>('select * from ledger order by id desc limit $1', [limit])).rows;
}

/** Rounds that reserved and have not settled. */
export async function unsettled(db: Queryable): Promise<number[]> {
  const { rows } = await db.query<{ round: number }>(
    `select round from ledger l where entry = 'reserve'
       and not exists (select 1 from ledger s where s.entry = 'settle' and s.round = l.round) order by id`,
  );
  return rows.map(row => row.round);
}

export type Verified =
  | { readonly ok: true; readonly rows: number; readonly head: string }
  | { readonly ok: false; readonly row: number; readonly reason: string };

/** Checks the whole chain. `head`, kept outside the database, proves later that no row at the end was removed. */
export async function verifyLedger(db: Queryable): Promise<Verified> {
  const { rows } = await db.query<LedgerRow>('select * from ledger order by id');
  let previous = GENESIS;
  for (const [index, { hash, ...row }] of rows.entries()) {
    const id = index + 1;
    if (row.id !== id) return { ok: false, row: id, reason: `row ${id} is missing` };
    if (row.prev_hash !== previous) return { ok: false, row: id, reason: 'it does not follow on the row before it' };
    if (hashOf(row) !== hash) return { ok: false, row: id, reason: 'its content is not what was hashed' };
    previous = hash;
  }
  return { ok: true, rows: rows.length, head: previous };
}
