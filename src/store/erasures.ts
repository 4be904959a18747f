import type { ErasureReceipt } from '../events/out.ts';
import { json, type Queryable } from './database.ts';

/** Everything of one user's, found and removed. Private text lives in feedback, documents, exchanges and dead_letters only. */

/** Which of these keyed hashes belong to users who were erased; hex. */
export async function erasedAmong(db: Queryable, hashes: readonly Buffer[]): Promise<Set<string>> {
  if (hashes.length === 0) return new Set();
  const { rows } = await db.query<{ user_hash: Buffer }>(
    'select user_hash from erased_users where user_hash = any($1)',
    [hashes],
  );
  return new Set(rows.map(row => row.user_hash.toString('hex')));
}

/** A version that saw rows of the user, or that descends from one. */
export interface TouchedVersion {
  readonly n: number;
  readonly name: string;
  readonly round: number;
  readonly trained: boolean;
  readonly inherits: boolean;
  readonly epsilon: number;
  readonly delta: number | null;
  /** The ledger says of the round: trained without noise, on sources declared public. */
  readonly declared: boolean;
}

/** The versions of rounds whose frozen view held the user's rows, and all that were made from them. Call before the rows go. */
export async function touchedVersions(db: Queryable, user: string): Promise<TouchedVersion[]> {
  const { rows } = await db.query<TouchedVersion>(
    `with recursive seen as (
       select rr.round, bool_or(r.split = 'train') as trained from round_rows rr join (
         select 'feedback' as kind, id, split from feedback where user_id = $1
         union all select 'document', id, split from documents where user_id = $1) as r
       on r.kind = rr.kind and r.id = rr.row_id
       group by rr.round),
     lineage as (
       select v.n, v.name, v.round, seen.trained, false as inherits
       from versions v join seen on v.round = seen.round
       union
       select child.n, child.name, child.round, true, true
       from lineage join versions child on child.parent = lineage.n
       where lineage.trained)
     select l.n, l.name, l.round, bool_or(l.trained) as trained, bool_and(l.inherits) as inherits,
       coalesce(max(r.epsilon), 0) as epsilon,
       (select max(delta) from ledger where ledger.round = l.round and entry = 'settle') as delta,
       exists (select from ledger where ledger.round = l.round and entry = 'declare')
         and not exists (select from ledger where ledger.round = l.round and entry = 'settle') as declared
     from lineage l left join rounds r on r.id = l.round
     group by l.n, l.name, l.round order by l.n`,
    [user],
  );
  return rows;
}

/** A round in progress whose frozen view holds rows of the user. */
export async function runningRoundWith(db: Queryable, user: string): Promise<number | null> {
  const { rows } = await db.query<{ id: number }>(
    `select id from rounds where finished_at is null and exists (
       select from round_rows rr where rr.round = rounds.id and (
         (rr.kind = 'feedback' and exists (select from feedback f where f.id = rr.row_id and f.user_id = $1)) or
         (rr.kind = 'document' and exists (select from documents d where d.id = rr.row_id and d.user_id = $1))))`,
    [user],
  );
  return rows[0]?.id ?? null;
}

/** Rows of a round's frozen view that are no longer there: erased since. A round asks before it trains and before it publishes. */
export async function erasedRows(db: Queryable, round: number): Promise<number> {
  const { rows } = await db.query<{ n: number }>(
    `select count(*) as n from round_rows rr where rr.round = $1
     and not exists (select from feedback f where rr.kind = 'feedback' and f.id = rr.row_id)
     and not exists (select from documents d where rr.kind = 'document' and d.id = rr.row_id)`,
    [round],
  );
  return rows[0]!.n;
}

/** Removes the user's rows; the events' idempotency keys stay, so a redelivered event is a duplicate and does not come back. */
export async function removeRows(db: Queryable, user: string): Promise<ErasureReceipt['rows']> {
  // Exchanges without a user of their own belong to whoever gave feedback on them.
  const exchanges = await db.query(
    `delete from exchanges where user_id = $1
     or (user_id is null and response_id in (select response_id from feedback where user_id = $1))`,
    [user],
  );
  const feedback = await db.query('delete from feedback where user_id = $1', [user]);
  const documents = await db.query('delete from documents where user_id = $1', [user]);
  // A message nobody could read may still name its user: by its key, or as a string somewhere in it.
  const dead = await db.query(
    `update dead_letters set payload = null, key = null
     where (payload is not null or key is not null) and (key = $1 or position($2::bytea in payload) > 0)`,
    [Buffer.from(user), Buffer.from(JSON.stringify(user))],
  );
  return {
    feedback: feedback.rowCount,
    documents: documents.rowCount,
    exchanges: exchanges.rowCount,
    dead_letters: dead.rowCount,
  };
}

export async function receiptOf(db: Queryable, hash: Buffer): Promise<ErasureReceipt | undefined> {
  const { rows } = await db.query<{ receipt: ErasureReceipt }>(
    'select receipt from erased_users where user_hash = $1',
    [hash],
  );
  return rows[0]?.receipt;
}

export async function saveReceipt(db: Queryable, hash: Buffer, receipt: ErasureReceipt): Promise<void> {
  await db.query(
    `insert into erased_users (user_hash, erased_at, receipt) values ($1, $2, $3)
     on conflict (user_hash) do update set receipt = excluded.receipt`,
    [hash, receipt.erased_at, json(receipt)],
  );
  await db.query(`insert into outbox (type, data) values ('learnd.erasure.completed', $1)`, [json(receipt)]);
}
