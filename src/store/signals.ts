import type { Queryable } from './database.ts';

/** Counts that rules ask about. */
export interface Counts {
  /** Rows that may be trained on, since the last frozen training view of their kind; null-safe on an empty store. */
  readonly feedbackNew: number;
  readonly documentsNew: number;
  readonly feedbackTotal: number;
  readonly documentsTotal: number;
}

/**
 * What a training view of a kind would take (round-rows.ts), by when it became so: not held out, not excluded, and (labels, documents)
 * looked at by the monitor. A row counts as new when that was after the last view was frozen and the view does not hold it.
 */
const newRows = (
  table: 'feedback' | 'documents',
  kind: 'feedback' | 'document',
  which: string,
  since: string,
): string => `
  (with last as (
     select r.id, r.started_at from rounds r
     where exists (select 1 from round_rows v join ${table} t on t.id = v.row_id
                   where v.round = r.id and v.kind = '${kind}' and t.split = 'train')
     order by r.id desc limit 1)
   select count(*) from ${table} t
   where t.split = 'train' and t.excluded is null and ${which}
     and (not exists (select 1 from last)
       or (${since} > (select started_at from last)
         and not exists (select 1 from round_rows v
                         where v.round = (select id from last) and v.kind = '${kind}' and v.row_id = t.id))))`;

/** Labels once the monitor has looked at them; what it has no figure for, at once. */
const FEEDBACK = `(t.kind <> 'label' or (t.text is not null and t.scored_at is not null))`;

export async function counts(db: Queryable): Promise<Counts> {
  const { rows } = await db.query<Counts>(
    `select ${newRows('feedback', 'feedback', FEEDBACK, 'coalesce(t.scored_at, t.received_at)')} as "feedbackNew",
            ${newRows('documents', 'document', 't.scored_at is not null', 't.scored_at')} as "documentsNew",
            (select count(*) from feedback) as "feedbackTotal",
            (select count(*) from documents) as "documentsTotal"`,
  );
  return rows[0]!;
}

/** When the champion became champion, ms since the epoch. */
export async function championSince(db: Queryable): Promise<number | null> {
  const { rows } = await db.query<{ updated_at: Date }>(`select updated_at from aliases where alias = 'champion'`);
  return rows[0]?.updated_at.getTime() ?? null;
}

/** Changes whenever the ledger does. */
export async function ledgerHead(db: Queryable): Promise<number> {
  const { rows } = await db.query<{ id: number }>('select coalesce(max(id), 0) as id from ledger');
  return rows[0]!.id;
}
