import type { Action } from '../../events/actions.ts';
import type { Signals, SignalValue } from '../../events/signals.ts';
import { chainNotBuilt } from './built.ts';
import { type Expression, type Values, withValues } from './expression.ts';
import { type Policy, type Rule, showDuration } from './policy.ts';
import { wallClock } from './schedule.ts';

/** What went before, read from the store. Times in milliseconds since the epoch. */
export interface History {
  /** When each rule last started a round, or was refused one. */
  readonly lastFired: ReadonlyMap<string, number>;
  readonly runningRound: number | null;
  /** Rounds that failed in a row, up to now (a rejected candidate is no failure). */
  readonly failures: number;
  /** End of the last of them. */
  readonly lastFailedAt: number | null;
}

export type BlockKind = 'schedule' | 'when' | 'require' | 'round' | 'cooldown' | 'pause' | 'order';

export interface RuleOutcome {
  readonly rule: string;
  /** Its conditions hold and nothing blocks it. */
  readonly fired: boolean;
  /** Why not, each with its figures. */
  readonly blocked: readonly string[];
  /** What kind of thing each of `blocked` is. */
  readonly kinds: readonly BlockKind[];
  /** Signals it names that are not known yet. */
  readonly unknown: readonly string[];
}

export interface Decision {
  readonly outcome: 'round' | 'none' | 'refused';
  readonly rule?: string;
  readonly actions?: readonly Action[];
  /** One sentence, with the figures it rests on. */
  readonly reason: string;
  readonly rules: readonly RuleOutcome[];
}

const FIRST_PAUSE_MS = 60_000;
const LONGEST_PAUSE_MS = 6 * 3_600_000;

/** Pause after n rounds failed in a row: 1 min, 2, 4, … at most 6 h, so that a fault that stays does not become a storm. */
export const failurePauseMs = (failures: number): number =>
  failures <= 0 ? 0 : Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** Math.min(failures - 1, 20));

function condition(name: 'when' | 'require', expression: Expression | undefined, values: Values): string | undefined {
  if (!expression) return undefined;
  const result = expression.evaluate(values);
  if (result === true) return undefined;
  const figures = withValues(expression, values);
  return `${name} ${result === false ? 'is false' : 'is not known yet'}: ${expression.text}${figures === '' ? '' : ` (${figures})`}`;
}

interface Judged {
  readonly rule: Rule;
  readonly values: Values;
  readonly blocked: Block[];
  readonly unknown: string[];
}

interface Block {
  readonly kind: BlockKind;
  readonly text: string;
}

function judge(rule: Rule, signals: Signals, history: History, now: number, due: ReadonlyMap<string, number>): Judged {
  const { hour, weekday } = wallClock(rule.timezone, now);
  const values: Record<string, SignalValue> = { ...signals, 'time.hour': hour, 'time.weekday': weekday };
  const named = new Set([...(rule.when?.signals ?? []), ...(rule.require?.signals ?? [])]);
  const unknown = [...named].filter(name => values[name] === null || values[name] === undefined);
  const blocked: Block[] = [];
  const block = (kind: BlockKind, text: string) => blocked.push({ kind, text });
  if (rule.schedule && !due.has(rule.name)) block('schedule', `not due: ${rule.schedule.pattern} (${rule.timezone})`);
  for (const kind of ['when', 'require'] as const) {
    const said = condition(kind, rule[kind], values);
    if (said !== undefined) block(kind, said);
  }
  if (history.runningRound !== null) block('round', `round ${history.runningRound} is running`);
  const fired = history.lastFired.get(rule.name);
  if (fired !== undefined && now - fired < rule.cooldownMs)
    block(
      'cooldown',
      `cooldown of ${showDuration(rule.cooldownMs)}: it fired ${showDuration(now - fired)} ago, ${showDuration(rule.cooldownMs - (now - fired))} left`,
    );
  const pause = failurePauseMs(history.failures);
  const rested = now - (history.lastFailedAt ?? now);
  if (pause > 0 && rested < pause)
    block(
      'pause',
      `pause of ${showDuration(pause)} after ${history.failures} failed ${history.failures === 1 ? 'round' : 'rounds in a row'}, ${showDuration(pause - rested)} left`,
    );
  return { rule, values, blocked, unknown };
}

/**
 * Decides from what is known: no clock, no store, no chance in it, so that a stored decision can be made again.
 * The first rule of the file that holds gets the round.
 * @param due - scheduled rules whose tick has come, with the tick (ms); a rule with `schedule` is blocked unless it is here.
 */
export function decide(
  signals: Signals,
  policy: Pick<Policy, 'rules'>,
  history: History,
  now: number,
  due: ReadonlyMap<string, number>,
): Decision {
  const judged = policy.rules.map(rule => judge(rule, signals, history, now, due));
  const chosen = judged.find(j => j.blocked.length === 0);
  const rules: RuleOutcome[] = judged.map(j => {
    const fired = j.blocked.length === 0;
    const blocked: Block[] =
      fired && j !== chosen ? [{ kind: 'order', text: `rule ${chosen?.rule.name} comes first` }] : j.blocked;
    return {
      rule: j.rule.name,
      fired,
      blocked: blocked.map(b => b.text),
      kinds: blocked.map(b => b.kind),
      unknown: j.unknown,
    };
  });
  if (!chosen) return { outcome: 'none', reason: whyNone(judged, history), rules };
  const { rule } = chosen;
  const why = [
    ...(rule.schedule ? [`it is due (${rule.schedule.pattern}, ${rule.timezone})`] : []),
    ...[rule.when, rule.require].flatMap(e =>
      e === undefined ? [] : [`${e.text}${e.signals.length === 0 ? '' : ` (${withValues(e, chosen.values)})`}`],
    ),
  ].join(' and ');
  const missing = chainNotBuilt(rule.actions);
  if (missing)
    return {
      outcome: 'refused',
      rule: rule.name,
      actions: rule.actions,
      reason: `Rule ${rule.name} holds (${why}), but ${missing.message}.`,
      rules,
    };
  return {
    outcome: 'round',
    rule: rule.name,
    actions: rule.actions,
    reason: `Rule ${rule.name}: ${why}; it does ${rule.actions.map(a => a.do).join(', ')}.`,
    rules,
  };
}

function whyNone(judged: readonly Judged[], history: History): string {
  if (judged.length === 0) return 'The policy has no rules.';
  if (history.runningRound !== null) return `Round ${history.runningRound} is running.`;
  // The rule that is nearest to firing says most.
  const nearest = judged.reduce((a, b) => (b.blocked.length < a.blocked.length ? b : a));
  return `No rule fires; ${nearest.rule.name}: ${nearest.blocked.map(b => b.text).join('; ')}.`;
}
