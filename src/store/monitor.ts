import { json, type Queryable } from './database.ts';

/** What the monitor keeps: its own state, and what the live version said about rows before they could be trained on. */

export async function getState<T>(db: Queryable, key: string): Promise<T | undefined> {
  const { rows } = await db.query<{ state: T }>('select state from monitor_state where key = $1', [key]);
  return rows[0]?.state;
}

export async function putState(db: Queryable, key: string, state: unknown): Promise<void> {
  await db.query(
    `insert into monitor_state (key, state) values ($1, $2)
     on conflict (key) do update set state = excluded.state, updated_at = now()`,
    [key, json(state)],
  );
}

export type ScoredKind = 'feedback' | 'documents';

/** Rows that wait to be scored; the partial indexes of the first migration serve exactly these. */
const WAITING: Record<ScoredKind, string> = {
  feedback: `feedback where scored_at is null and kind = 'label' and excluded is null`,
  documents: 'documents where scored_at is null and excluded is null',
};

/** Ids of waiting rows, oldest first. */
export async function waitingIds(db: Queryable, kind: ScoredKind, limit: number): Promise<number[]> {
  const { rows } = await db.query<{ id: number }>(`select id from ${WAITING[kind]} order by id limit $1`, [limit]);
  return rows.map(row => row.id);
}

export interface LabelToScore {
  readonly id: number;
  readonly task: string;
  readonly text: string;
  readonly label: string;
}

export async function labelsToScore(db: Queryable, ids: readonly number[]): Promise<LabelToScore[]> {
  const { rows } = await db.query<LabelToScore>(
    `select id, task, text, label from ${WAITING.feedback}
       and id = any($1) and task is not null and text is not null and label is not null order by id`,
    [ids],
  );
  return rows;
}

export interface DocumentToScore {
  readonly id: number;
  readonly text: string;
}

export async function documentsToScore(db: Queryable, ids: readonly number[]): Promise<DocumentToScore[]> {
  const { rows } = await db.query<DocumentToScore>(
    `select id, text from ${WAITING.documents} and id = any($1) order by id`,
    [ids],
  );
  return rows;
}

/** @returns ids of the rows that were still waiting; one that was erased or excluded meanwhile is not among them. */
export async function storePredictions(
  db: Queryable,
  version: number,
  rows: ReadonlyArray<{ readonly id: number; readonly predicted: string }>,
): Promise<Set<number>> {
  const result = await db.query<{ id: number }>(
    `update feedback as f set predicted = s.predicted, scored_version = $3, scored_at = now()
     from unnest($1::bigint[], $2::text[]) as s(id, predicted)
     where f.id = s.id and f.scored_at is null and f.excluded is null returning f.id`,
    [rows.map(r => r.id), rows.map(r => r.predicted), version],
  );
  return new Set(result.rows.map(r => r.id));
}

/** @param rows - `nll`: nats, summed over `tokens` tokens; `bytes`: of the text. */
export async function storeLikelihoods(
  db: Queryable,
  version: number,
  rows: ReadonlyArray<{ readonly id: number; readonly nll: number; readonly tokens: number; readonly bytes: number }>,
): Promise<Set<number>> {
  const result = await db.query<{ id: number }>(
    `update documents as d set nll = s.nll, tokens = s.tokens, bytes = s.bytes, scored_version = $5, scored_at = now()
     from unnest($1::bigint[], $2::double precision[], $3::int[], $4::int[]) as s(id, nll, tokens, bytes)
     where d.id = s.id and d.scored_at is null and d.excluded is null returning d.id`,
    [rows.map(r => r.id), rows.map(r => r.nll), rows.map(r => r.tokens), rows.map(r => r.bytes), version],
  );
  return new Set(result.rows.map(r => r.id));
}

/** Marks rows as looked at without a prediction ("sampled out"); they may be trained on from now. */
export async function sampleOut(
  db: Queryable,
  kind: ScoredKind,
  version: number,
  ids: readonly number[],
): Promise<void> {
  await db.query(
    `update ${kind} set scored_at = now(), scored_version = $2
     where id = any($1) and scored_at is null and excluded is null`,
    [ids, version],
  );
}
