import { LearndError } from '../base/errors.ts';
import { json, notify, type Queryable } from './database.ts';

/** Rounds: one row each, at most one not finished (unique index `rounds_one_running`). */

export type RoundState =
  | 'planned'
  | 'reserved'
  | 'trained'
  | 'compressed'
  | 'evaluated'
  | 'admitted'
  | 'rejected'
  | 'published'
  | 'failed'
  /** Not begun: the budget, the declarations or the action itself did not allow it. Nothing was trained or spent. */
  | 'refused';

/** A row of `rounds`, as stored. `work`, `progress` and `verdict` are the round's own (src/loop/round/types.ts). */
export interface RoundRow {
  readonly id: number;
  readonly state: RoundState;
  readonly reason: string;
  readonly rule: string | null;
  readonly decision: number | null;
  readonly policy: number | null;
  readonly actions: unknown;
  readonly parent: number | null;
  readonly candidate: number | null;
  readonly work: Readonly<Record<string, unknown>>;
  readonly progress: unknown;
  readonly verdict: unknown;
  readonly epsilon: number;
  readonly error: string | null;
  /** Tries of the step in progress, this one included. */
  readonly attempts: number;
  readonly fence: number;
  readonly started_at: Date;
  readonly finished_at: Date | null;
}

export interface NewRound {
  readonly decision: number | undefined;
  readonly policy: number | undefined;
  readonly rule: string | undefined;
  readonly actions: unknown;
  readonly reason: string;
  readonly parent: number | undefined;
  readonly fence: number;
}

/** The new round in state `planned`. @throws LearndError('conflict') while another is not finished. */
export async function insertRound(db: Queryable, round: NewRound): Promise<RoundRow> {
  const { rows } = await db.query<RoundRow>(
    `insert into rounds (state, reason, rule, decision, policy, actions, parent, fence)
     values ('planned', $1, $2, $3, $4, $5, $6, $7)
     on conflict ((true)) where finished_at is null do nothing
     returning *`,
    [
      round.reason,
      round.rule ?? null,
      round.decision ?? null,
      round.policy ?? null,
      json(round.actions),
      round.parent ?? null,
      round.fence,
    ],
  );
  const row = rows[0];
  if (!row) throw new LearndError('conflict', 'a round is running already', { hint: 'Wait until it has finished' });
  await notify(db, 'round');
  return row;
}

/** @throws LearndError('not_found') */
export async function getRound(db: Queryable, id: number): Promise<RoundRow> {
  const { rows } = await db.query<RoundRow>('select * from rounds where id = $1', [id]);
  if (!rows[0]) throw new LearndError('not_found', `there is no round ${id}`);
  return rows[0];
}

export async function runningRound(db: Queryable): Promise<RoundRow | undefined> {
  const { rows } = await db.query<RoundRow>('select * from rounds where finished_at is null');
  return rows[0];
}

/** Newest first. */
export async function listRounds(db: Queryable, limit = 100): Promise<RoundRow[]> {
  const { rows } = await db.query<RoundRow>('select * from rounds order by id desc limit $1', [limit]);
  return rows;
}

/** Rounds that failed since the last one that ended otherwise. A refused round neither counts nor ends the count. */
export async function failedInARow(db: Queryable): Promise<number> {
  const { rows } = await db.query<{ n: number }>(
    `select count(*) as n from rounds where state = 'failed' and id > coalesce(
       (select max(id) from rounds where finished_at is not null and state not in ('failed', 'refused')), 0)`,
  );
  return rows[0]!.n;
}

export interface RoundChange {
  readonly from: RoundState;
  readonly to: RoundState;
  readonly fence: number;
  /** Merged into `work` key by key; null removes a key. */
  readonly work?: Readonly<Record<string, unknown>>;
  readonly candidate?: number;
  readonly verdict?: unknown;
  readonly epsilon?: number;
  readonly error?: string;
  readonly finished?: boolean;
}

const removed = (work: RoundChange['work']): string[] =>
  Object.entries(work ?? {}).flatMap(([key, value]) => (value === null ? [key] : []));

const lost = (id: number, from: RoundState): LearndError =>
  new LearndError('conflict', `round ${id} is no longer in state ${from}, or another leader has taken it over`, {
    retriable: false,
    data: { lost: true },
  });

/** Whether an error says that the round is in other hands. */
export const isLost = (error: LearndError): boolean => error.data?.lost === true;

/**
 * The step from one state to the next. Only the holder of the newest fencing token may take it, and only from the state it saw.
 * @throws LearndError('conflict') when someone else was there first.
 */
export async function changeRound(db: Queryable, id: number, change: RoundChange): Promise<RoundRow> {
  const { rows } = await db.query<RoundRow>(
    `update rounds set state = $3, fence = $4,
       work = (work || $5::jsonb) - $11::text[],
       candidate = coalesce($6, candidate),
       verdict = coalesce($7::jsonb, verdict),
       epsilon = coalesce($8, epsilon),
       error = coalesce($9, error),
       attempts = 0,
       progress = null,
       finished_at = case when $10 then now() end
     where id = $1 and state = $2 and finished_at is null and fence <= $4
     returning *`,
    [
      id,
      change.from,
      change.to,
      change.fence,
      json(change.work ?? {}),
      change.candidate ?? null,
      change.verdict === undefined ? null : json(change.verdict),
      change.epsilon ?? null,
      change.error ?? null,
      change.finished ?? false,
      removed(change.work),
    ],
  );
  if (!rows[0]) throw lost(id, change.from);
  await notify(db, 'round');
  return rows[0];
}

/** Counts a try of the step in progress and takes the round over from older leaders. `by` -1 gives a try back that was called off. */
export async function countAttempt(db: Queryable, round: RoundRow, fence: number, by: 1 | -1 = 1): Promise<RoundRow> {
  const { rows } = await db.query<RoundRow>(
    `update rounds set attempts = attempts + $4, fence = $3
     where id = $1 and state = $2 and finished_at is null and fence <= $3 returning *`,
    [round.id, round.state, fence, by],
  );
  if (!rows[0]) throw lost(round.id, round.state);
  return rows[0];
}

/** Remembers something in the middle of a step. */
export async function noteWork(
  db: Queryable,
  round: Pick<RoundRow, 'id' | 'state'>,
  fence: number,
  work: Readonly<Record<string, unknown>>,
): Promise<RoundRow> {
  const { rows } = await db.query<RoundRow>(
    `update rounds set work = (work || $4::jsonb) - $5::text[]
     where id = $1 and state = $2 and finished_at is null and fence <= $3 returning *`,
    [round.id, round.state, fence, json(work), removed(work)],
  );
  if (!rows[0]) throw lost(round.id, round.state);
  return rows[0];
}

/** For people to watch; lost on the next state. */
export async function noteProgress(db: Queryable, id: number, progress: unknown): Promise<void> {
  await db.query('update rounds set progress = $2 where id = $1 and finished_at is null', [id, json(progress)]);
  await notify(db, 'round');
}
