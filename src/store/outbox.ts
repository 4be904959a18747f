import type { OutData, OutType } from '../events/out.ts';
import { json, type Queryable } from './database.ts';

/** Events out, written in the transaction of what they tell, published afterwards in the order of their commits. */
const APPEND = 0x1ea4_0003;
const PUBLISH = 0x1ea4_0004;

export interface OutEvent<T extends OutType = OutType> {
  readonly id: number;
  readonly type: T;
  readonly data: OutData[T];
  readonly created_at: Date;
}

/**
 * Appends in the caller's transaction (do it last: whoever appends next waits for its end). Ids are handed out under a lock held
 * until commit, so no smaller id ever turns up behind a larger one that was already published.
 */
export async function appendEvent<T extends OutType>(tx: Queryable, type: T, data: OutData[T]): Promise<void> {
  await tx.query('select pg_advisory_xact_lock($1)', [APPEND]);
  await tx.query('insert into outbox (type, data) values ($1, $2)', [type, json(data)]);
}

/**
 * The oldest unpublished events, for one publisher at a time: undefined when another transaction has claimed them. The claim ends
 * with the transaction.
 */
export async function claimEvents(tx: Queryable, limit = 100): Promise<OutEvent[] | undefined> {
  const { rows: lock } = await tx.query<{ held: boolean }>('select pg_try_advisory_xact_lock($1) as held', [PUBLISH]);
  if (!lock[0]!.held) return undefined;
  const { rows } = await tx.query<OutEvent>(
    'select id, type, data, created_at from outbox where published_at is null order by id limit $1',
    [limit],
  );
  return rows;
}

/** Marks everything up to and including `id`. */
export async function markPublished(tx: Queryable, id: number): Promise<void> {
  await tx.query('update outbox set published_at = now() where id <= $1 and published_at is null', [id]);
}

/** Events after `id`, oldest first, published or not. */
export async function eventsAfter(db: Queryable, id: number, limit = 100): Promise<OutEvent[]> {
  const { rows } = await db.query<OutEvent>(
    'select id, type, data, created_at from outbox where id > $1 order by id limit $2',
    [id, limit],
  );
  return rows;
}

/** Removes what was published longer ago than `ms`; how many. */
export async function pruneEvents(db: Queryable, ms: number): Promise<number> {
  const { rowCount } = await db.query(
    `delete from outbox where published_at < now() - make_interval(secs => $1::double precision / 1000)`,
    [ms],
  );
  return rowCount;
}

/** Removes events older than that, published or not: for a deployment that has nowhere to publish to. */
export async function forgetEvents(db: Queryable, ms: number): Promise<number> {
  const { rowCount } = await db.query(
    `delete from outbox where created_at < now() - make_interval(secs => $1::double precision / 1000)`,
    [ms],
  );
  return rowCount;
}
