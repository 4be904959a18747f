import type { Queryable } from './database.ts';

/**
 * Where consumption of each Kafka partition stands. Written in the transaction that stores what was read, so Postgres is the
 * truth and the group's offsets in Kafka are a copy for lag tools.
 */

export interface Position {
  readonly topic: string;
  readonly partition: number;
  /** The next offset to read. */
  readonly next: number;
}

export async function storedOffsets(db: Queryable): Promise<Position[]> {
  const { rows } = await db.query<{ topic: string; partition: number; next_offset: number }>(
    'select topic, partition, next_offset from kafka_offsets order by topic, partition',
  );
  return rows.map(row => ({ topic: row.topic, partition: row.partition, next: row.next_offset }));
}

/**
 * Locks a partition's position to the end of the transaction and returns it (0 when nothing was read yet). Two consumers that both believe
 * to own the partition, as around a rebalance, pass here one after the other, and the second sees what the first stored.
 */
export async function fence(db: Queryable, topic: string, partition: number): Promise<number> {
  await db.query(
    `insert into kafka_offsets (topic, partition, next_offset) values ($1, $2, 0) on conflict (topic, partition) do nothing`,
    [topic, partition],
  );
  const { rows } = await db.query<{ next_offset: number }>(
    'select next_offset from kafka_offsets where topic = $1 and partition = $2 for update',
    [topic, partition],
  );
  return rows[0]!.next_offset;
}

/** An older position never overwrites a newer one. */
export async function advance(db: Queryable, { topic, partition, next }: Position): Promise<void> {
  await db.query(
    `update kafka_offsets set next_offset = $3, updated_at = now()
     where topic = $1 and partition = $2 and next_offset < $3`,
    [topic, partition, next],
  );
}

/** For a topic that was deleted and made anew: its offsets start again, and the fence must too. */
export async function resetOffset(db: Queryable, { topic, partition, next }: Position): Promise<void> {
  await db.query(
    `insert into kafka_offsets (topic, partition, next_offset) values ($1, $2, $3)
     on conflict (topic, partition) do update set next_offset = excluded.next_offset, updated_at = now()`,
    [topic, partition, next],
  );
}
