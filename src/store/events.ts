import { json, type Queryable } from './database.ts';

/** One row an event ever accepted: (source, event_id) is the idempotency key and outlives the erasure of the content. */

export type Origin = 'kafka' | 'http' | 'socket' | 'cli';

export interface NewEvent {
  readonly source: string;
  readonly event_id: string;
  readonly type: string;
  readonly kind: 'feedback' | 'document' | 'erasure';
  readonly occurred_at: string | undefined;
  readonly trace_parent: string | undefined;
}

export const eventKey = (source: string, id: string): string => `${source}\n${id}`;

/** Any constant of our own; the migration's and the leader's locks have others. */
const INGEST_LOCK = 0x1ea4_0003;

/**
 * Held to the end of the transaction. Ingest shares it, erasure has it alone: a row of a user cannot be inserted between the
 * look for erased users and the commit while that user is being erased.
 */
export async function ingestLock(db: Queryable, mode: 'shared' | 'exclusive'): Promise<void> {
  await db.query(`select pg_advisory_xact_lock${mode === 'shared' ? '_shared' : ''}($1)`, [INGEST_LOCK]);
}

/**
 * Inserts the events that are new and returns their ids by `eventKey`; a key that is not in the map was there before.
 * Sorted by key, so that two batches with the same events wait for each other instead of deadlocking.
 */
export async function insertEvents(
  db: Queryable,
  origin: Origin,
  events: readonly NewEvent[],
): Promise<Map<string, number>> {
  if (events.length === 0) return new Map();
  const { rows } = await db.query<{ id: number; source: string; event_id: string }>(
    `insert into events (source, event_id, type, kind, origin, occurred_at, trace_parent)
     select source, event_id, type, kind, $2, occurred_at, trace_parent
     from jsonb_to_recordset($1::jsonb) as e
       (source text, event_id text, type text, kind text, occurred_at timestamptz, trace_parent text)
     order by source, event_id
     on conflict (source, event_id) do nothing
     returning id, source, event_id`,
    [json(events), origin],
  );
  return new Map(rows.map(row => [eventKey(row.source, row.event_id), row.id]));
}
