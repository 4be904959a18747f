import type { Queryable } from './database.ts';

/** Messages that could not be read, with the reason, to be mended and replayed. */

export interface NewDeadLetter {
  readonly topic: string;
  readonly partition: number;
  readonly offset: number;
  readonly key: Buffer | null;
  /** null: larger than an event may be; it is still in its topic. */
  readonly payload: Buffer | null;
  readonly reason: string;
  readonly field: string;
}

export interface DeadLetter extends NewDeadLetter {
  readonly id: number;
  readonly received_at: Date;
  readonly replayed_at: Date | null;
}

export async function insertDeadLetter(db: Queryable, letter: NewDeadLetter): Promise<void> {
  await db.query(
    `insert into dead_letters (topic, partition, "offset", key, payload, reason, field) values ($1, $2, $3, $4, $5, $6, $7)
     on conflict (topic, partition, "offset") do nothing`,
    [letter.topic, letter.partition, letter.offset, letter.key, letter.payload, letter.reason, letter.field],
  );
}

/** Newest first. */
export async function listDeadLetters(db: Queryable, limit: number): Promise<DeadLetter[]> {
  const { rows } = await db.query<DeadLetter>('select * from dead_letters order by id desc limit $1', [limit]);
  return rows;
}

/** Oldest first: what has not been replayed and still has its payload. */
export async function replayable(db: Queryable, after: number, limit: number): Promise<DeadLetter[]> {
  const { rows } = await db.query<DeadLetter>(
    `select * from dead_letters where replayed_at is null and payload is not null and id > $1 order by id limit $2`,
    [after, limit],
  );
  return rows;
}

/** Its content is an event now, or was refused as an erased user's: the letter need not keep it. */
export async function markReplayed(db: Queryable, id: number): Promise<void> {
  await db.query('update dead_letters set replayed_at = now(), payload = null, key = null where id = $1', [id]);
}

export async function stillDead(db: Queryable, id: number, reason: string, field: string): Promise<void> {
  await db.query('update dead_letters set reason = $2, field = $3 where id = $1', [id, reason, field]);
}
