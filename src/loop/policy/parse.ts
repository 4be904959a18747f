import { createHash } from 'node:crypto';
import { isMap } from 'yaml';
import { invalid } from '../../base/errors.ts';
import { type Collector, type PolicySettings, reportIssues } from './collect.ts';
import { compileExpression, type Expression, type Scope } from './expression.ts';
import { parseActions } from './parse-actions.ts';
import {
  DEFAULT_BUDGET,
  DEFAULT_COOLDOWN_MS,
  DEFAULT_GATE,
  DEFAULT_TIMEZONE,
  type Policy,
  parseDuration,
  type Rule,
  showDuration,
} from './policy.ts';
import { isTimezone, parseSchedule } from './schedule.ts';
import { policySchema, type RawPolicy } from './schema.ts';
import { type Finding, type Path, Source } from './source.ts';

export interface PolicyCheck {
  readonly valid: boolean;
  /** Every mistake and every warning at once, in the order of the text. */
  readonly findings: readonly Finding[];
  /** What holds where the text says nothing, as the keys of the file. */
  readonly defaults: Readonly<Record<string, unknown>>;
  /** The policy, where there is no mistake. */
  readonly policy: Policy | undefined;
}

/** The keys that may stand in the mapping at `path`. */
const keysAt = (path: Path): readonly string[] => {
  const { rules, budget, alarms } = policySchema.shape;
  if (path.length === 0) return Object.keys(policySchema.shape);
  if (path[0] === 'rules') return Object.keys(rules.element.shape);
  return path[0] === 'budget' ? Object.keys(budget.unwrap().shape) : Object.keys(alarms.unwrap().shape);
};

function readExpression(raw: string | boolean, path: Path, scope: Scope, to: Collector): Expression | undefined {
  const compiled = compileExpression(String(raw), scope);
  if (!Array.isArray(compiled)) return compiled as Expression;
  for (const mistake of compiled) to.error(to.source.inside(path, mistake.start), path, mistake.message);
  return undefined;
}

function readDuration(raw: string, path: Path, to: Collector): number | undefined {
  const ms = parseDuration(raw);
  if (ms === undefined)
    to.error(to.source.value(path), path, `"${raw}" is not a duration: write 30s, 90m, 6h or 7d, more than 0`);
  return ms;
}

function readRule(raw: RawPolicy['rules'][number], index: number, budget: number, to: Collector): Rule | undefined {
  const path: Path = ['rules', index];
  const { source } = to;
  const timezone = raw.timezone ?? DEFAULT_TIMEZONE;
  const zoneKnown = isTimezone(timezone);
  if (!zoneKnown)
    to.error(
      source.value([...path, 'timezone']),
      [...path, 'timezone'],
      `unknown time zone "${timezone}" (IANA names, such as Europe/Berlin)`,
    );
  const when = raw.when === undefined ? undefined : readExpression(raw.when, [...path, 'when'], 'rule', to);
  const require = raw.require === undefined ? undefined : readExpression(raw.require, [...path, 'require'], 'rule', to);
  const schedule = raw.schedule === undefined ? undefined : parseSchedule(raw.schedule, zoneKnown ? timezone : 'UTC');
  if (typeof schedule === 'string') to.error(source.value([...path, 'schedule']), [...path, 'schedule'], schedule);
  if (raw.when === undefined && raw.schedule === undefined)
    to.error(source.value(path), path, `rule "${raw.name}" needs "when" or "schedule": nothing would ever start it`);
  const cooldownMs =
    raw.cooldown === undefined ? DEFAULT_COOLDOWN_MS : readDuration(raw.cooldown, [...path, 'cooldown'], to);
  const actions = parseActions(raw.do, [...path, 'do'], budget, to);
  if (cooldownMs === undefined || actions === undefined || typeof schedule === 'string') return undefined;
  return { name: raw.name, line: source.value(path).line, when, require, schedule, timezone, actions, cooldownMs };
}

/**
 * Checks a policy as a whole.
 * @param settings - the declared tasks and sources; without them what depends on those is not checked.
 */
export function policyCheck(text: string, options: { settings?: PolicySettings | undefined } = {}): PolicyCheck {
  const source = new Source(text);
  const findings: Finding[] = [];
  const add =
    (severity: Finding['severity']) => (at: { line: number; column: number }, path: Path, message: string) => {
      findings.push({ severity, ...at, path: path.join('.'), message });
    };
  const to: Collector = { source, settings: options.settings, error: add('error'), warning: add('warning') };

  findings.push(...source.problems());
  let policy: Policy | undefined;
  let used: { gate: boolean; budget: RawPolicy['budget']; alarms: RawPolicy['alarms'] } = {
    gate: false,
    budget: undefined,
    alarms: undefined,
  };
  if (findings.length === 0) {
    const root = source.document.contents;
    if (!isMap(root)) to.error({ line: 1, column: 1 }, [], 'a policy is a mapping with the key "rules"');
    else {
      const raw: unknown = source.document.toJS();
      const shaped = policySchema.safeParse(raw);
      if (!shaped.success) reportIssues(shaped.error.issues, [], keysAt, to);
      // What has the right shape is read even beside what has not, so that every mistake comes at once.
      const partial = shaped.success ? shaped.data : salvage(raw);
      const read = readPolicy(partial, to);
      used = { gate: partial.gate !== undefined, budget: partial.budget, alarms: partial.alarms };
      if (!findings.some(f => f.severity === 'error'))
        policy = { text, sha256: createHash('sha256').update(text).digest('hex'), ...read };
    }
  }
  findings.sort((a, b) => a.line - b.line || a.column - b.column);
  return { valid: policy !== undefined, findings, defaults: defaultsBeside(used), policy };
}

function readPolicy(raw: RawPolicy, to: Collector): Omit<Policy, 'text' | 'sha256'> {
  const budget = {
    epsilon: raw.budget?.epsilon ?? DEFAULT_BUDGET.epsilon,
    delta: raw.budget?.delta ?? DEFAULT_BUDGET.delta,
    unit: 'user' as const,
    windowMs:
      raw.budget?.window === undefined ? null : (readDuration(raw.budget.window, ['budget', 'window'], to) ?? null),
  };
  const rules: Rule[] = [];
  const names = new Map<string, number>();
  raw.rules.forEach((item, index) => {
    const rule = readRule(item, index, budget.epsilon, to);
    const before = names.get(item.name);
    if (before !== undefined)
      to.error(
        to.source.value(['rules', index, 'name']),
        ['rules', index, 'name'],
        `rule "${item.name}" is already on line ${before}`,
      );
    else names.set(item.name, to.source.value(['rules', index]).line);
    if (rule) rules.push(rule);
  });
  if (raw.rules.length === 0 && to.source.document.hasIn(['rules']))
    to.warning(to.source.key([], 'rules'), ['rules'], 'no rules: no round will ever start');
  const gate = (raw.gate ?? DEFAULT_GATE).flatMap(
    (line, index) => readExpression(line, ['gate', index], 'gate', to) ?? [],
  );
  if (raw.gate?.length === 0) to.warning(to.source.key([], 'gate'), ['gate'], 'an empty gate admits every candidate');
  if (raw.budget?.window !== undefined)
    to.warning(
      to.source.key(['budget'], 'window'),
      ['budget', 'window'],
      `with a window, epsilon ${budget.epsilon} limits what is spent within ${raw.budget.window}; the lifetime total is shown beside it and can pass it`,
    );
  if (raw.alarms?.false_per_month !== undefined)
    to.warning(
      to.source.key(['alarms'], 'false_per_month'),
      ['alarms', 'false_per_month'],
      "alarms are not calibrated to a rate in this version: the detectors run with river's defaults",
    );
  return { rules, gate, budget, alarms: { false_per_month: raw.alarms?.false_per_month ?? null } };
}

/** The parts of a policy whose own structure is right; rules keep their index. */
function salvage(raw: unknown): RawPolicy {
  const whole = raw as Record<string, unknown>;
  const shape = policySchema.shape;
  const part = <K extends keyof RawPolicy>(key: K): RawPolicy[K] | undefined => {
    const result = shape[key].safeParse(whole[key]);
    return result.success ? (result.data as RawPolicy[K]) : undefined;
  };
  const rules = (Array.isArray(whole.rules) ? whole.rules : []).map((rule, index) => salvageRule(rule, index));
  return { rules, gate: part('gate'), budget: part('budget'), alarms: part('alarms') };
}

function salvageRule(rule: unknown, index: number): RawPolicy['rules'][number] {
  const element = policySchema.shape.rules.element;
  const whole = element.safeParse(rule);
  if (whole.success) return whole.data;
  const fields = typeof rule === 'object' && rule !== null ? Object.entries(rule) : [];
  const kept = fields.filter(
    ([key, value]) =>
      Object.hasOwn(element.shape, key) && element.shape[key as keyof typeof element.shape].safeParse(value).success,
  );
  // Stand-ins for what is missing or wrong, which is reported already: a name nobody can have, a condition, no actions.
  return { name: `#${index}`, do: [], when: true, ...Object.fromEntries(kept) };
}

function defaultsBeside(used: {
  gate: boolean;
  budget: RawPolicy['budget'];
  alarms: RawPolicy['alarms'];
}): Record<string, unknown> {
  const defaults: Record<string, unknown> = {};
  if (!used.gate) defaults.gate = [...DEFAULT_GATE];
  const budget = {
    epsilon: DEFAULT_BUDGET.epsilon,
    delta: DEFAULT_BUDGET.delta,
    unit: DEFAULT_BUDGET.unit,
    window: 'none',
  };
  const left = Object.entries(budget).filter(([key]) => used.budget?.[key as keyof typeof budget] === undefined);
  if (left.length > 0) defaults.budget = Object.fromEntries(left);
  if (used.alarms?.false_per_month === undefined) defaults.alarms = { false_per_month: "none (river's defaults)" };
  defaults.constraints = [];
  defaults.rules = { cooldown: showDuration(DEFAULT_COOLDOWN_MS), timezone: DEFAULT_TIMEZONE };
  return defaults;
}

/** `policies.yaml:7:11: unknown signal …` */
export const showFinding = (file: string, f: Finding): string =>
  `${file}:${f.line}:${f.column}: ${f.severity === 'warning' ? 'warning: ' : ''}${f.message}`;

/** @throws LearndError('invalid') with the first mistake; all of them are in `data.findings`. */
export function parsePolicy(text: string, options: { file: string; settings?: PolicySettings | undefined }): Policy {
  const { policy, findings } = policyCheck(text, options);
  if (policy) return policy;
  const errors = findings.filter(f => f.severity === 'error');
  const more = errors.length > 1 ? ` (and ${errors.length - 1} more)` : '';
  throw invalid('policy', `${showFinding(options.file, errors[0]!)}${more}`, { data: { findings } });
}
