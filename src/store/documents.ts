import { createHash } from 'node:crypto';
import { json, type Queryable } from './database.ts';
import { hex } from './feedback.ts';

/** Documents as ingest writes them, and what it compares them with. */

export interface NewDocument {
  readonly event: number;
  readonly unit: string;
  readonly user_id?: string | undefined;
  readonly region?: string | undefined;
  readonly consent?: readonly string[] | undefined;
  readonly source: string;
  readonly public: boolean;
  readonly title?: string | undefined;
  readonly text: string;
  readonly license?: string | undefined;
  readonly published_at?: string | undefined;
  readonly content_hash: Buffer;
  readonly sketch: Buffer;
  readonly split: 'train' | 'holdout';
  readonly excluded?: string | undefined;
}

export async function insertDocuments(db: Queryable, rows: readonly NewDocument[]): Promise<void> {
  if (rows.length === 0) return;
  const columns =
    'event, unit, user_id, region, consent, source, public, title, text, license, published_at, content_hash, sketch, split, excluded';
  await db.query(
    `insert into documents (${columns}) select ${columns}
     from jsonb_to_recordset($1::jsonb) as d (event bigint, unit text, user_id text, region text, consent text[], source text,
       public boolean, title text, text text, license text, published_at timestamptz, content_hash bytea, sketch bytea, split text,
       excluded text)`,
    [json(rows.map(row => ({ ...row, content_hash: hex(row.content_hash), sketch: hex(row.sketch) })))],
  );
}

export interface DocumentBefore {
  readonly unit: string;
  readonly content_hash: Buffer;
  readonly sketch: Buffer;
}

/** The newest documents of each unit that count. */
export async function documentsBefore(db: Queryable, units: readonly string[]): Promise<DocumentBefore[]> {
  if (units.length === 0) return [];
  const { rows } = await db.query<DocumentBefore>(
    `select d.* from unnest($1::text[]) as u (unit) cross join lateral (
       select unit, content_hash, sketch from documents
       where unit = u.unit and excluded is null and sketch is not null order by id desc limit 256) as d`,
    [units],
  );
  return rows;
}

/** Which of these contents are there already as public documents. Public text is nobody's: here the whole store is compared. */
export async function publicContents(db: Queryable, hashes: readonly Buffer[]): Promise<Set<string>> {
  if (hashes.length === 0) return new Set();
  const { rows } = await db.query<{ content_hash: Buffer }>(
    'select content_hash from documents where public and excluded is null and content_hash = any($1)',
    [hashes],
  );
  return new Set(rows.map(row => row.content_hash.toString('hex')));
}

/** Which of the texts are, spaces around them aside, exactly an answer the model once gave. MD5 finds them, it proves nothing. */
export async function exactOwnOutputs(db: Queryable, texts: readonly string[]): Promise<Set<string>> {
  if (texts.length === 0) return new Set();
  const md5 = new Map(
    texts.map(text => [
      createHash('md5')
        .update(text.replace(/^ +| +$/g, ''))
        .digest('hex'),
      text,
    ]),
  );
  const { rows } = await db.query<{ md5: string }>(
    `select md5(btrim(output)) as md5 from exchanges where md5(btrim(output)) = any($1)`,
    [[...md5.keys()]],
  );
  return new Set(rows.map(row => md5.get(row.md5)!));
}

export interface RecentOutput {
  readonly response_id: string;
  readonly output: string;
  readonly created_at: Date;
}

/** The newest answers since `since`, oldest first. */
export async function recentOutputs(db: Queryable, since: Date, limit: number): Promise<RecentOutput[]> {
  const { rows } = await db.query<RecentOutput>(
    `select response_id, output, created_at from exchanges where created_at >= $1 and output <> ''
     order by created_at desc limit $2`,
    [since, limit],
  );
  return rows.reverse();
}
