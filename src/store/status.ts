import type { Queryable } from './database.ts';

/** Events stored once each since the beginning (erased ones too: their keys stay), and messages nobody could read. */
export interface EventCounts {
  readonly feedback: number;
  readonly documents: number;
  readonly dead: number;
}

export async function eventCounts(db: Queryable): Promise<EventCounts> {
  const { rows } = await db.query<EventCounts>(
    `select (select count(*) from events where kind = 'feedback') as feedback,
            (select count(*) from events where kind = 'document') as documents,
            (select count(*) from dead_letters where replayed_at is null) as dead`,
  );
  return rows[0]!;
}

/** Rows the monitor has not looked at, and feedback that was accepted and may not be learned from, by reason. */
export async function waitingCounts(db: Queryable): Promise<{ unscored: number; excluded: Record<string, number> }> {
  const { rows } = await db.query<{ unscored: number; excluded: Record<string, number> | null }>(
    `select (select count(*) from feedback where scored_at is null and kind = 'label' and excluded is null)
          + (select count(*) from documents where scored_at is null and excluded is null) as unscored,
       (select jsonb_object_agg(excluded, n) from (
          select excluded, count(*) as n from (
            select excluded from feedback where excluded is not null
            union all select excluded from documents where excluded is not null) every group by excluded) by_reason) as excluded`,
  );
  return { unscored: rows[0]!.unscored, excluded: rows[0]!.excluded ?? {} };
}

/** Trace contexts of the newest events in a round's frozen view that came with one. */
export async function tracesOfRound(db: Queryable, round: number, limit: number): Promise<string[]> {
  const { rows } = await db.query<{ trace_parent: string }>(
    `select e.trace_parent from events e
     where e.trace_parent is not null and e.id in (
       select f.event from round_rows r join feedback f on r.kind = 'feedback' and f.id = r.row_id where r.round = $1
       union all
       select d.event from round_rows r join documents d on r.kind = 'document' and d.id = r.row_id where r.round = $1)
     order by e.id desc limit $2`,
    [round, limit],
  );
  return rows.map(row => row.trace_parent);
}
