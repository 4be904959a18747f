import type { Action } from '../../events/actions.ts';
import type { Signals } from '../../events/signals.ts';
import type { Database, Queryable } from '../../store/database.ts';
import {
  type DecisionRow,
  insertDecision,
  lastFailure,
  lastFired,
  linkRound,
  newestDecision,
} from '../../store/decisions.ts';
import { getState, putState } from '../../store/monitor.ts';
import { appendEvent } from '../../store/outbox.ts';
import { failedInARow, runningRound } from '../../store/rounds.ts';
import { type BlockKind, type Decision, decide, type History } from './decide.ts';
import type { Policy, Rule } from './policy.ts';
import type { ActivePolicy } from './watch.ts';

/** A missed tick is made up for if it is no older than this: the night's work is not done at noon after a day's outage. */
export const CATCH_UP_MS = 3_600_000;
/** An unchanged "no" is stored again after this long, so that the record shows the daemon was looking. */
const HEARTBEAT_MS = 3_600_000;
const TICKS = 'policy.ticks';

/** The last tick of each scheduled rule that has been dealt with, ms since the epoch. */
type Ticks = Record<string, number>;

/** A changed schedule starts anew. */
const keyOf = (rule: Rule): string => `${rule.name} | ${rule.schedule?.pattern} | ${rule.timezone}`;

/**
 * Ticks that have come and have not been dealt with, by rule. A rule seen for the first time starts with now: saving a file
 * must not run last night's rule.
 */
export function dueTicks(rules: Policy['rules'], ticks: Ticks, now: number): { due: Map<string, number>; seen: Ticks } {
  const due = new Map<string, number>();
  const seen: Ticks = {};
  for (const rule of rules) {
    if (!rule.schedule) continue;
    const key = keyOf(rule);
    const before = ticks[key];
    seen[key] = before ?? now;
    if (before === undefined) continue;
    const tick = rule.schedule.lastDue(Math.max(before, now - CATCH_UP_MS), now);
    if (tick !== undefined) due.set(rule.name, tick);
  }
  return { due, seen };
}

/** What a due rule waits for, up to CATCH_UP_MS; a rule whose own condition was false at its tick has had its turn. */
const WAITS: ReadonlySet<BlockKind> = new Set(['round', 'cooldown', 'pause', 'order']);

function useTicks(rules: Policy['rules'], due: ReadonlyMap<string, number>, seen: Ticks, decision: Decision): Ticks {
  const after = { ...seen };
  for (const rule of rules) {
    const tick = due.get(rule.name);
    if (tick === undefined) continue;
    const { kinds } = decision.rules.find(r => r.rule === rule.name)!;
    if (kinds.length === 0 || !kinds.every(kind => WAITS.has(kind))) after[keyOf(rule)] = tick;
  }
  return after;
}

/** What of a decision must differ for it to be stored again: outcome, and which kind of thing blocks each rule. */
const shape = (decision: Pick<DecisionRow, 'outcome' | 'rule' | 'rules'>): string =>
  JSON.stringify([
    decision.outcome,
    decision.rule ?? null,
    decision.rules.map(r => [r.rule, r.fired, r.kinds, r.unknown]),
  ]);

export interface PolicyTurn {
  readonly decision: Decision;
  /** The stored decision; undefined: the same "no" as before, not stored again. */
  readonly row: DecisionRow | undefined;
}

/**
 * One look: history from the store, a decision, and in one transaction the decision with every signal's value, the ticks it
 * used up, the round it begins and the outbox event. So a rule never counts as fired without its round.
 * @param input.begin - makes the round's row (or does what makes no round, and returns null); may run again on a serialization failure.
 */
export async function policyTurn(input: {
  db: Database;
  active: ActivePolicy;
  signals: Signals;
  now: number;
  begin: (tx: Queryable, decision: DecisionRow, actions: readonly Action[]) => Promise<number | null>;
}): Promise<PolicyTurn> {
  const { db, active, signals, now } = input;
  return db.tx(async tx => {
    const running = await runningRound(tx);
    const history: History = {
      lastFired: await lastFired(tx),
      runningRound: running?.id ?? null,
      failures: await failedInARow(tx),
      lastFailedAt: await lastFailure(tx),
    };
    const ticks = (await getState<Ticks>(tx, TICKS)) ?? {};
    const { due, seen } = dueTicks(active.policy.rules, ticks, now);
    const decision = decide(signals, active.policy, history, now, due);
    const used = useTicks(active.policy.rules, due, seen, decision);
    if (JSON.stringify(used) !== JSON.stringify(ticks)) await putState(tx, TICKS, used);

    const before = await newestDecision(tx);
    const candidate = { outcome: decision.outcome, rule: decision.rule ?? null, rules: decision.rules };
    const same =
      before !== undefined &&
      decision.outcome === 'none' &&
      before.policy === active.id &&
      shape(before) === shape(candidate) &&
      now - before.at.getTime() < HEARTBEAT_MS;
    if (same) return { decision, row: undefined };
    let row = await insertDecision(tx, {
      at: now,
      policy: active.id,
      signals,
      reason: decision.reason,
      ...candidate,
    });
    if (decision.outcome === 'round') {
      const round = await input.begin(tx, row, decision.actions!);
      if (round !== null) row = await linkRound(tx, row, round);
    }
    if (decision.outcome !== 'none')
      await appendEvent(tx, 'learnd.decision.made', {
        id: row.id,
        outcome: row.outcome,
        rule: row.rule,
        reason: row.reason,
        round: row.round,
      });
    return { decision, row };
  });
}
