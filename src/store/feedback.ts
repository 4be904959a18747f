import { json, type Queryable } from './database.ts';

/** Feedback rows as ingest writes them, and what it must know about a unit and about the exchanges feedback refers to. */

export interface NewFeedback {
  readonly event: number;
  readonly kind: 'rating' | 'label' | 'correction' | 'preference';
  readonly unit: string;
  readonly user_id?: string | undefined;
  readonly region?: string | undefined;
  readonly consent?: readonly string[] | undefined;
  readonly task?: string | undefined;
  readonly text?: string | undefined;
  readonly label?: string | undefined;
  readonly prompt?: string | undefined;
  readonly ideal?: string | undefined;
  readonly chosen?: string | undefined;
  readonly rejected?: string | undefined;
  readonly value?: number | undefined;
  readonly comment?: string | undefined;
  readonly response_id?: string | undefined;
  readonly content_hash: Buffer;
  readonly sketch: Buffer;
  readonly split: 'train' | 'holdout';
  readonly excluded?: string | undefined;
}

/** bytea goes through JSON in PostgreSQL's hex form. */
export const hex = (bytes: Buffer): string => `\\x${bytes.toString('hex')}`;

/** In the order given: the monitor reads the stream by row id. */
export async function insertFeedback(db: Queryable, rows: readonly NewFeedback[]): Promise<void> {
  if (rows.length === 0) return;
  const columns = `event, kind, unit, user_id, region, consent, task, text, label, prompt, ideal, chosen, rejected, value, comment,
    response_id, content_hash, sketch, split, excluded`;
  await db.query(
    `insert into feedback (${columns}) select ${columns}
     from jsonb_to_recordset($1::jsonb) as f (event bigint, kind text, unit text, user_id text, region text, consent text[], task text,
       text text, label text, prompt text, ideal text, chosen text, rejected text, value smallint, comment text, response_id text,
       content_hash bytea, sketch bytea, split text, excluded text)`,
    [json(rows.map(row => ({ ...row, content_hash: hex(row.content_hash), sketch: hex(row.sketch) })))],
  );
}

/** Rows of a unit that a new one is compared with; older ones are let repeat. */
const COMPARED = 256;

export interface SaidBefore {
  readonly unit: string;
  readonly kind: string;
  readonly task: string | null;
  readonly label: string | null;
  readonly content_hash: Buffer;
  readonly sketch: Buffer;
}

/** The newest rows of each unit that count. */
export async function saidBefore(db: Queryable, units: readonly string[]): Promise<SaidBefore[]> {
  if (units.length === 0) return [];
  const { rows } = await db.query<SaidBefore>(
    `select f.* from unnest($1::text[]) as u (unit) cross join lateral (
       select unit, kind, task, label, content_hash, sketch from feedback
       where unit = u.unit and excluded is null and content_hash is not null and sketch is not null
       order by id desc limit ${COMPARED}) as f`,
    [units],
  );
  return rows;
}

/** The exchange that feedback refers to by `response_id`. */
export interface ReferredExchange {
  readonly response_id: string;
  readonly user_id: string | null;
  /** Messages `[{role, content}]`, or the plain prompt. */
  readonly input: unknown;
  readonly output: string;
}

export async function exchangesFor(db: Queryable, responseIds: readonly string[]): Promise<ReferredExchange[]> {
  if (responseIds.length === 0) return [];
  const { rows } = await db.query<ReferredExchange>(
    'select response_id, user_id, input, output from exchanges where response_id = any($1)',
    [responseIds],
  );
  return rows;
}

/** Feedback that came before its exchange was stored, where the exchange is there by now. */
export interface LateMatch {
  readonly id: number;
  readonly event: number;
  readonly kind: NewFeedback['kind'];
  readonly user_id: string | null;
  readonly task: string | null;
  readonly text: string | null;
  readonly label: string | null;
  readonly prompt: string | null;
  readonly ideal: string | null;
  readonly value: number | null;
  readonly comment: string | null;
  readonly response_id: string;
}

export async function lateMatches(db: Queryable, limit: number): Promise<LateMatch[]> {
  const { rows } = await db.query<LateMatch>(
    `select f.id, f.event, f.kind, f.user_id, f.task, f.text, f.label, f.prompt, f.ideal, f.value, f.comment, f.response_id
     from feedback f join exchanges x on x.response_id = f.response_id
     where f.excluded = 'unmatched' order by f.id limit $1`,
    [limit],
  );
  return rows;
}

/** Fills in what an unmatched row inherits; nothing else ever changes a row's unit or split. */
export async function completeFeedback(db: Queryable, id: number, row: NewFeedback): Promise<void> {
  await db.query(
    `update feedback set unit = $2, user_id = $3, text = $4, prompt = $5, content_hash = $6, sketch = $7, split = $8, excluded = $9
     where id = $1 and excluded = 'unmatched'`,
    [id, row.unit, row.user_id, row.text, row.prompt, row.content_hash, row.sketch, row.split, row.excluded],
  );
}

export async function deleteFeedback(db: Queryable, ids: readonly number[]): Promise<void> {
  if (ids.length > 0) await db.query('delete from feedback where id = any($1)', [ids]);
}
