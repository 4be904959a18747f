import { json, notify, type Queryable } from './database.ts';

export interface DecisionRow {
  readonly id: number;
  readonly at: Date;
  readonly policy: number | null;
  readonly signals: Readonly<Record<string, number | boolean | null>>;
  readonly rules: ReadonlyArray<{
    readonly rule: string;
    readonly fired: boolean;
    readonly blocked: readonly string[];
    /** What kind of thing each of `blocked` is. */
    readonly kinds: readonly string[];
    readonly unknown: readonly string[];
  }>;
  readonly outcome: 'round' | 'none' | 'refused';
  readonly rule: string | null;
  readonly reason: string;
  readonly round: number | null;
}

export type NewDecision = Omit<DecisionRow, 'id' | 'at' | 'round'> & { readonly at: number };

export async function insertDecision(db: Queryable, decision: NewDecision): Promise<DecisionRow> {
  const { rows } = await db.query<DecisionRow>(
    `insert into decisions (at, policy, signals, rules, outcome, rule, reason)
     values (to_timestamp($1::double precision / 1000), $2, $3, $4, $5, $6, $7) returning *`,
    [
      decision.at,
      decision.policy,
      json(decision.signals),
      json(decision.rules),
      decision.outcome,
      decision.rule,
      decision.reason,
    ],
  );
  await notify(db, 'policy');
  return rows[0]!;
}

/** The round that a decision led to. */
export async function linkRound(db: Queryable, decision: DecisionRow, round: number): Promise<DecisionRow> {
  await db.query('update decisions set round = $2 where id = $1', [decision.id, round]);
  return { ...decision, round };
}

/** Newest first. */
export async function listDecisions(db: Queryable, limit = 100): Promise<DecisionRow[]> {
  const { rows } = await db.query<DecisionRow>('select * from decisions order by id desc limit $1', [limit]);
  return rows;
}

export async function newestDecision(db: Queryable): Promise<DecisionRow | undefined> {
  return (await listDecisions(db, 1))[0];
}

/** When each rule last started a round or was refused one, ms since the epoch. */
export async function lastFired(db: Queryable): Promise<Map<string, number>> {
  const { rows } = await db.query<{ rule: string; at: Date }>(
    `select rule, max(at) as at from decisions where outcome <> 'none' and rule is not null group by rule`,
  );
  return new Map(rows.map(row => [row.rule, row.at.getTime()]));
}

/** End of the newest failed round, ms since the epoch. */
export async function lastFailure(db: Queryable): Promise<number | null> {
  const { rows } = await db.query<{ at: Date | null }>(
    `select max(finished_at) as at from rounds where state = 'failed'`,
  );
  return rows[0]?.at?.getTime() ?? null;
}
