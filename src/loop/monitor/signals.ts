import type { Clock } from '../../base/clock.ts';
import { type SignalName, type Signals, signalNames } from '../../events/signals.ts';
import type { Card } from '../../learn/model/version.ts';
import type { Database, Queryable } from '../../store/database.ts';
import { type Compose, spent } from '../../store/ledger.ts';
import { failedInARow, runningRound } from '../../store/rounds.ts';
import { championSince, counts, ledgerHead } from '../../store/signals.ts';
import type { ServingStats } from './serving.ts';
import { type MonitorSettings, readFigures } from './turn.ts';

/** The policy's budget, as far as signals need it. */
export interface BudgetLimit {
  readonly epsilon: number;
  readonly delta: number;
  /** Milliseconds; null: the limit is on the lifetime total. */
  readonly windowMs: number | null;
}

export interface BudgetFigures {
  /** Lifetime, composed. */
  readonly spent: number;
  /** Of the limit: over the window where the policy has one, else over the lifetime. Never below 0. */
  readonly left: number;
}

/** With a window, what has left it is looked up again this often. */
const WINDOW_STEP_MS = 60_000;

/**
 * Reads the budget. Composing takes the accountant up to a second, so a figure is kept until the ledger, the limit or the minute changes.
 */
export function budgetReader(
  compose: Compose,
  clock: Clock,
): (db: Queryable, limit: BudgetLimit) => Promise<BudgetFigures> {
  let known: { key: string; figures: BudgetFigures } | undefined;
  return async (db, limit) => {
    const step = limit.windowMs === null ? 0 : Math.floor(clock.now() / WINDOW_STEP_MS);
    const key = JSON.stringify([await ledgerHead(db), limit, step]);
    if (known?.key === key) return known.figures;
    const { epsilon, window } = await spent(db, { delta: limit.delta, compose, windowMs: limit.windowMs ?? undefined });
    const figures = { spent: epsilon, left: Math.max(0, limit.epsilon - window) };
    known = { key, figures };
    return figures;
  };
}

export interface ChampionFigures {
  readonly n: number;
  /** null: not measured yet. */
  readonly card: Card | null;
}

/** Every signal's value now; null where it is not known. `time.*` are in UTC here and in a rule's own zone where the rule is judged. */
export async function collectSignals(input: {
  db: Database;
  settings: MonitorSettings;
  serving: ServingStats;
  champion: ChampionFigures | undefined;
  budget: BudgetFigures;
  clock: Clock;
}): Promise<Signals> {
  const { db, settings, champion, budget, clock } = input;
  const now = clock.now();
  const [rows, figures, since, running, failed] = await Promise.all([
    counts(db),
    readFigures(db, settings),
    championSince(db),
    runningRound(db),
    failedInARow(db),
  ]);
  // Figures of a version that is no longer live say nothing about the one that is.
  const live = figures !== undefined && figures.version === champion?.n ? figures : undefined;
  const card = champion?.card;
  const utc = new Date(now);
  const values: Partial<Signals> = {
    'feedback.new': rows.feedbackNew,
    'feedback.total': rows.feedbackTotal,
    'documents.new': rows.documentsNew,
    'documents.total': rows.documentsTotal,
    'perplexity.value': live?.perplexity.value,
    'perplexity.reference': live?.perplexity.reference,
    'perplexity.alarm': live?.perplexity.alarm,
    'f1.value': live?.f1.value,
    'f1.reference': live?.f1.reference,
    'f1.alarm': live?.f1.alarm,
    ...input.serving.figures(),
    'budget.epsilon_spent': budget.spent,
    'budget.epsilon_left': budget.left,
    'champion.version': champion?.n,
    'champion.age_hours': since === null ? null : Math.max(0, now - since) / 3_600_000,
    'champion.parameters': card?.parameters,
    'champion.size_mb': card?.size_mb,
    'champion.perplexity': card?.perplexity,
    'champion.f1': card?.f1,
    'champion.tokens_per_second': card?.tokens_per_second,
    'round.running': running !== undefined,
    'rounds.failed': failed,
    'time.hour': utc.getUTCHours(),
    'time.weekday': utc.getUTCDay(),
  };
  return Object.fromEntries(signalNames.map((name: SignalName) => [name, values[name] ?? null])) as Signals;
}
