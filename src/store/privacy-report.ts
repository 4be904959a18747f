import type { Mechanism } from '../learn/privacy/mechanism.ts';
import type { Queryable } from './database.ts';
import { type Compose, spent } from './ledger.ts';

/** What the ledger says was spent, by round and by user. */
export interface PrivacyReport {
  readonly delta: number;
  /** Of all rounds together, open reservations included: what `status` shows. */
  readonly epsilon: number;
  /** Newest first. */
  readonly rounds: ReadonlyArray<{
    readonly round: number;
    /** Of this round alone. An open reservation counts as what it may release. */
    readonly epsilon: number;
    readonly state: 'settled' | 'reserved';
    readonly at: Date;
    readonly mechanisms: readonly Mechanism[];
  }>;
  /** Users (and events that are a unit of their own) with rows in a round's view. A user who was erased is not counted. */
  readonly users: {
    readonly count: number;
    /** Epsilon that half, nine of ten ... of them have spent at most: the composition of the rounds they had rows in. */
    readonly quantiles: Readonly<Record<'p50' | 'p90' | 'p99' | 'max', number>>;
  };
  /** Decisions that no noise covers. */
  readonly declarations: number;
}

const QUANTILES = { p50: 0.5, p90: 0.9, p99: 0.99, max: 1 } as const;

export async function privacyReport(
  db: Queryable,
  options: { readonly delta: number; readonly compose: Compose },
): Promise<PrivacyReport> {
  const { delta, compose } = options;
  const of = (mechanisms: readonly Mechanism[]): number => (mechanisms.length === 0 ? 0 : compose(mechanisms, delta));
  const { rows } = await db.query<{ round: number; entry: 'reserve' | 'settle'; mechanism: Mechanism[]; at: Date }>(
    `select distinct on (round) round, entry, mechanism, at from ledger
     where entry in ('reserve', 'settle') and round is not null order by round desc, id desc`,
  );
  const mechanisms = new Map(rows.map(row => [row.round, row.mechanism]));
  const { rows: declared } = await db.query<{ n: number }>(
    `select count(*)::int as n from ledger where entry = 'declare'`,
  );
  const groups = await usersByRounds(db, [...mechanisms.keys()]);
  const spending = groups
    .map(({ rounds, users }) => ({ users, epsilon: of(rounds.flatMap(round => mechanisms.get(round)!)) }))
    .sort((a, b) => a.epsilon - b.epsilon);
  return {
    delta,
    epsilon: (await spent(db, { delta, compose })).epsilon,
    rounds: rows.map(row => ({
      round: row.round,
      epsilon: of(row.mechanism),
      state: row.entry === 'settle' ? ('settled' as const) : ('reserved' as const),
      at: row.at,
      mechanisms: row.mechanism,
    })),
    users: {
      count: spending.reduce((sum, { users }) => sum + users, 0),
      quantiles: {
        p50: quantile(spending, QUANTILES.p50),
        p90: quantile(spending, QUANTILES.p90),
        p99: quantile(spending, QUANTILES.p99),
        max: quantile(spending, QUANTILES.max),
      },
    },
    declarations: declared[0]!.n,
  };
}

/** How many users had rows in exactly these rounds. Public documents are no one's. */
async function usersByRounds(
  db: Queryable,
  rounds: readonly number[],
): Promise<ReadonlyArray<{ rounds: number[]; users: number }>> {
  const { rows } = await db.query<{ rounds: number[]; users: number }>(
    `select rounds, count(*)::int as users from (
       select unit, array_agg(distinct round order by round) as rounds from (
         select r.round, f.unit from round_rows r join feedback f on f.id = r.row_id
         where r.kind = 'feedback' and f.split = 'train'
         union all
         select r.round, d.unit from round_rows r join documents d on d.id = r.row_id
         where r.kind = 'document' and d.split = 'train' and not d.public) as taken
       where round = any($1) group by unit) as by_unit
     group by rounds`,
    [rounds],
  );
  return rows.map(row => ({ ...row, rounds: row.rounds.map(Number) }));
}

/** Smallest epsilon that so large a share of the users stays at or below. */
function quantile(spending: ReadonlyArray<{ users: number; epsilon: number }>, share: number): number {
  const total = spending.reduce((sum, { users }) => sum + users, 0);
  let below = 0;
  for (const { users, epsilon } of spending) {
    below += users;
    if (below >= share * total) return epsilon;
  }
  return 0;
}
