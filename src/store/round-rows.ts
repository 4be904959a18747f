import type { Queryable } from './database.ts';

/**
 * The frozen training view of a round (`round_rows`) and the held-out rows it is judged by. A view is only ever narrowed: rows
 * erased or excluded after it was frozen are gone from what these functions return.
 */

export interface TaskLabels {
  readonly name: string;
  readonly labels: readonly string[];
}

/** What the monitor has scored or decided not to score ("predict, then learn"), may be trained on, and is not held out. */
const MAY_TRAIN = `split = 'train' and excluded is null and scored_at is not null`;

/**
 * Freezes the labelled rows of the declared tasks: all eligible ones, old and new, at most `perUnit` newest of each unit and
 * task. The choice looks at one unit's rows only, so no unit's data decides about another's.
 */
export async function freezeLabels(
  db: Queryable,
  round: number,
  tasks: readonly TaskLabels[],
  perUnit: number,
): Promise<number> {
  for (const task of tasks)
    await db.query(
      `insert into round_rows (round, kind, row_id)
       select $1, 'feedback', id from (
         select id, row_number() over (partition by unit order by received_at desc, id desc) as nth
         from feedback where kind = 'label' and task = $2 and label = any($3) and text is not null and ${MAY_TRAIN}) as r
       where nth <= $4
       on conflict do nothing`,
      [round, task.name, task.labels, perUnit],
    );
  return await viewSize(db, round, 'feedback');
}

/** Rows that the view may train on. Actions of one round share a view, so a row frozen before counts as well. */
async function viewSize(db: Queryable, round: number, table: 'feedback' | 'documents'): Promise<number> {
  const { rows } = await db.query<{ n: number }>(
    `select count(*) as n from round_rows r join ${table} t on t.id = r.row_id
     where r.round = $1 and r.kind = $2 and t.split = 'train'`,
    [round, table === 'feedback' ? 'feedback' : 'document'],
  );
  return rows[0]!.n;
}

/** Freezes the eligible documents, at most `perUnit` newest of each unit; `publicOnly`: of sources declared public. */
export async function freezeDocuments(
  db: Queryable,
  round: number,
  options: { perUnit: number; publicOnly: boolean },
): Promise<number> {
  // A public document is no one's private unit: all of them count.
  await db.query(
    `insert into round_rows (round, kind, row_id)
     select $1, 'document', id from (
       select id, row_number() over (partition by unit order by received_at desc, id desc) as nth
       from documents where ${MAY_TRAIN} and (public or not $3)) as r
     where $3 or nth <= $2
     on conflict do nothing`,
    [round, options.perUnit, options.publicOnly],
  );
  return await viewSize(db, round, 'documents');
}

/** Tasks with rows in the view. */
export async function tasksInView(db: Queryable, round: number): Promise<Set<string>> {
  const { rows } = await db.query<{ task: string }>(
    `select distinct f.task from round_rows r join feedback f on f.id = r.row_id
     where r.round = $1 and r.kind = 'feedback' and f.split = 'train'`,
    [round],
  );
  return new Set(rows.map(row => row.task));
}

/** Sources of the documents in the view. */
export async function publicSources(db: Queryable, round: number): Promise<string[]> {
  const { rows } = await db.query<{ source: string }>(
    `select distinct d.source from round_rows r join documents d on d.id = r.row_id
     where r.round = $1 and r.kind = 'document' and d.split = 'train' order by d.source`,
    [round],
  );
  return rows.map(row => row.source);
}

/** Freezes what the round is judged by: the newest held-out documents, and the newest held-out labels of each declared task. */
export async function freezeHoldout(
  db: Queryable,
  round: number,
  tasks: readonly TaskLabels[],
  most: { documents: number; labels: number },
): Promise<void> {
  await db.query(
    `insert into round_rows (round, kind, row_id)
     select $1, 'document', id from (select id from documents where split = 'holdout' and excluded is null
       order by received_at desc, id desc limit $2) as d
     on conflict do nothing`,
    [round, most.documents],
  );
  for (const task of tasks)
    await db.query(
      `insert into round_rows (round, kind, row_id)
       select $1, 'feedback', id from (select id from feedback
         where kind = 'label' and task = $2 and label = any($3) and text is not null
           and split = 'holdout' and excluded is null
         order by received_at desc, id desc limit $4) as f
       on conflict do nothing`,
      [round, task.name, task.labels, most.labels],
    );
}

export interface LabelRow {
  readonly unit: string;
  readonly text: string;
  readonly label: string;
  readonly region: string | null;
}

/** Labels of the view, by unit. */
export async function viewLabels(db: Queryable, round: number, task: string): Promise<LabelRow[]> {
  const { rows } = await db.query<LabelRow>(
    `select f.unit, f.text, f.label, f.region from round_rows r join feedback f on f.id = r.row_id
     where r.round = $1 and r.kind = 'feedback' and f.task = $2 and f.text is not null
       and f.split = 'train' and f.excluded is null
     order by f.unit, f.id`,
    [round, task],
  );
  return rows;
}

export interface DocumentRow {
  readonly id: number;
  readonly unit: string;
  readonly text: string;
  readonly public: boolean;
}

/** Documents of the view, by unit. */
export async function viewDocuments(db: Queryable, round: number): Promise<DocumentRow[]> {
  const { rows } = await db.query<DocumentRow>(
    `select d.id, d.unit, d.text, d.public from round_rows r join documents d on d.id = r.row_id
     where r.round = $1 and r.kind = 'document' and d.split = 'train' and d.excluded is null
     order by d.unit, d.id`,
    [round],
  );
  return rows;
}

/** Held-out documents of the view, newest first. */
export async function holdoutDocuments(db: Queryable, round: number): Promise<DocumentRow[]> {
  const { rows } = await db.query<DocumentRow>(
    `select d.id, d.unit, d.text, d.public from round_rows r join documents d on d.id = r.row_id
     where r.round = $1 and r.kind = 'document' and d.split = 'holdout' and d.excluded is null
     order by d.received_at desc, d.id desc`,
    [round],
  );
  return rows;
}

export interface HoldoutLabel extends LabelRow {
  readonly id: number;
}

/** Held-out labels of the view, newest first. */
export async function holdoutLabels(db: Queryable, round: number, task: string): Promise<HoldoutLabel[]> {
  const { rows } = await db.query<HoldoutLabel>(
    `select f.id, f.unit, f.text, f.label, f.region from round_rows r join feedback f on f.id = r.row_id
     where r.round = $1 and r.kind = 'feedback' and f.task = $2 and f.text is not null
       and f.split = 'holdout' and f.excluded is null
     order by f.received_at desc, f.id desc`,
    [round, task],
  );
  return rows;
}

/** Region of each held-out label of the view that says one. */
export async function holdoutRegions(db: Queryable, round: number): Promise<Map<number, string>> {
  const { rows } = await db.query<{ id: number; region: string }>(
    `select f.id, f.region from round_rows r join feedback f on f.id = r.row_id
     where r.round = $1 and r.kind = 'feedback' and f.split = 'holdout' and f.region is not null`,
    [round],
  );
  return new Map(rows.map(({ id, region }) => [id, region]));
}

/** Texts of documents whose source is declared public, newest first: calibration without privacy cost. */
export async function publicTexts(db: Queryable, limit: number): Promise<string[]> {
  const { rows } = await db.query<{ text: string }>(
    `select text from documents where public and excluded is null and split = 'train' order by id desc limit $1`,
    [limit],
  );
  return rows.map(row => row.text);
}
