import { type ASTNode, Environment, type ParseResult, serialize } from '@marcbachmann/cel-js';
import { CANDIDATE, SIGNALS, type SignalType, type SignalValue, signalTypes } from '../../events/signals.ts';
import { nearest } from './source.ts';

/**
 * Boolean CEL expressions over signals. A signal that is not known yet (null) makes the comparison it stands in unknown;
 * `&&`, `||`, `!` and `?:` combine true, false and unknown by Kleene's logic, and a whole that stays unknown counts as false. So
 * `!f1.alarm` does not fire while nobody knows, and `a || b` does as soon as one side is known to be true.
 */

export type Scope = 'rule' | 'gate';
export type Values = Readonly<Record<string, SignalValue | undefined>>;

export interface Mistake {
  /** Character of the expression, from 0. */
  readonly start: number;
  readonly message: string;
}

export interface Expression {
  readonly text: string;
  /** Every signal it names, in the order of appearance. */
  readonly signals: readonly string[];
  /** @returns true, false, or undefined where the unknown signals decide. */
  evaluate(values: Values): boolean | undefined;
}

const tables = { rule: SIGNALS, gate: { ...SIGNALS, candidate: CANDIDATE } } as const;
const types: Record<Scope, Map<string, SignalType>> = {
  rule: signalTypes(tables.rule),
  gate: signalTypes(tables.gate),
};

/** CEL does not mix int and double in arithmetic; a policy's author should not have to write `2.0` for `2`. */
const ARITHMETIC: Record<string, (a: number, b: number) => number> = {
  '+': (a, b) => a + b,
  '-': (a, b) => a - b,
  '*': (a, b) => a * b,
  '/': (a, b) => a / b,
};

function environment(scope: Scope): Environment {
  const env = new Environment({ limits: { maxAstNodes: 1000, maxDepth: 50 } });
  for (const [group, members] of Object.entries(tables[scope]))
    env.registerVariable({
      name: group,
      schema: Object.fromEntries(Object.entries(members).map(([name, { type }]) => [name, type])),
    });
  for (const [sign, apply] of Object.entries(ARITHMETIC)) {
    env.registerOperator(`int ${sign} double: double`, (a, b) => apply(Number(a), b));
    env.registerOperator(`double ${sign} int: double`, (a, b) => apply(a, Number(b)));
  }
  env.registerOperator('int == double', (a, b) => Number(a) === b);
  return env;
}

const environments: Record<Scope, Environment> = { rule: environment('rule'), gate: environment('gate') };

const isNode = (value: unknown): value is ASTNode => typeof value === 'object' && value !== null && 'op' in value;
const children = (node: ASTNode): ASTNode[] =>
  (Array.isArray(node.args) ? node.args.flat() : [node.args]).filter(isNode) as ASTNode[];

/** Names that macros bind: `list.exists(x, …)`. */
function bound(node: ASTNode, into = new Set<string>()): Set<string> {
  if (node.op === 'rcall') {
    const first = (node.args as unknown as [string, ASTNode, ASTNode[]])[2]?.[0];
    if (first?.op === 'id') into.add(first.args as unknown as string);
  }
  for (const child of children(node)) bound(child, into);
  return into;
}

/** Every `group.member` of the tree, and what is wrong with the names. */
function references(ast: ASTNode, scope: Scope): { signals: string[]; mistakes: Mistake[] } {
  const known = types[scope];
  const groups = tables[scope] as Record<string, Record<string, unknown>>;
  const macros = bound(ast);
  const signals = new Set<string>();
  const mistakes: Mistake[] = [];
  const visit = (node: ASTNode): void => {
    const [object, member] = (Array.isArray(node.args) ? node.args : []) as unknown as [ASTNode, unknown];
    if ((node.op === '.' || node.op === '[]') && isNode(object) && object.op === 'id') {
      const group = object.args as unknown as string;
      const literal = isNode(member) && member.op === 'value' ? (member.args as unknown) : member;
      if (!macros.has(group)) {
        if (typeof literal !== 'string')
          mistakes.push({ start: object.start, message: `${group}[…]: a signal is named as ${group}.name` });
        else if (known.has(`${group}.${literal}`)) signals.add(`${group}.${literal}`);
        else {
          const name = `${group}.${literal}`;
          const meant = nearest(name, known.keys());
          const hint =
            group === 'candidate' && scope === 'rule'
              ? 'candidate.… is known in gate only'
              : meant !== undefined
                ? `did you mean ${meant}?`
                : Object.hasOwn(groups, group)
                  ? `${group} has ${Object.keys(groups[group]!).join(', ')}`
                  : `the groups are ${Object.keys(groups).join(', ')}`;
          mistakes.push({ start: object.start, message: `unknown signal ${name}; ${hint}` });
        }
        return;
      }
    }
    if (node.op === 'id') {
      const name = node.args as unknown as string;
      if (Object.hasOwn(groups, name))
        mistakes.push({
          start: node.start,
          message: `${name} is a group of signals: name one of ${Object.keys(groups[name]!)
            .map(m => `${name}.${m}`)
            .join(', ')}`,
        });
      else if (!macros.has(name)) {
        const meant = nearest(name, known.keys());
        mistakes.push({
          start: node.start,
          message: `unknown signal ${name}${meant === undefined ? '' : `; did you mean ${meant}?`}`,
        });
      }
      return;
    }
    for (const child of children(node)) visit(child);
  };
  visit(ast);
  return { signals: [...signals], mistakes };
}

type Evaluate = (values: Values) => boolean | undefined;

const not = (value: boolean | undefined): boolean | undefined => (value === undefined ? undefined : !value);

function compileNode(node: ASTNode, scope: Scope): Evaluate {
  const parts = children(node);
  if (node.op === '&&' || node.op === '||') {
    const [left, right] = parts.map(part => compileNode(part, scope)) as [Evaluate, Evaluate];
    const decisive = node.op === '||';
    return values => {
      const a = left(values);
      if (a === decisive) return decisive;
      const b = right(values);
      if (b === decisive) return decisive;
      return a === undefined || b === undefined ? undefined : !decisive;
    };
  }
  if (node.op === '!_') {
    const inner = compileNode(parts[0]!, scope);
    return values => not(inner(values));
  }
  if (node.op === '?:') {
    const [test, yes, no] = parts.map(part => compileNode(part, scope)) as [Evaluate, Evaluate, Evaluate];
    return values => {
      const chosen = test(values);
      return chosen === undefined ? undefined : chosen ? yes(values) : no(values);
    };
  }
  const { signals } = references(node, scope);
  const run: ParseResult = environments[scope].parse(serialize(node));
  return values => {
    if (signals.some(name => values[name] === null || values[name] === undefined)) return undefined;
    const result: unknown = run(context(scope, values));
    return typeof result === 'boolean' ? result : undefined;
  };
}

/** Signals as the groups CEL reads; the unknown ones get a value of their type, because atoms that name them never run. */
function context(scope: Scope, values: Values): Record<string, Record<string, unknown>> {
  const groups: Record<string, Record<string, unknown>> = {};
  for (const [name, type] of types[scope]) {
    const [group, member] = name.split('.') as [string, string];
    const value = values[name] ?? (type === 'bool' ? false : 0);
    groups[group] ??= {};
    groups[group][member] =
      type === 'int' ? BigInt(Math.trunc(Number(value))) : type === 'bool' ? value === true : Number(value);
  }
  return groups;
}

/** What stands in an English or C-like habit's way. */
function habit(text: string): string {
  if (/\b(and|or|not)\b/i.test(text)) return ' (CEL writes && for and, || for or, ! for not)';
  if (/[^=!<>]=[^=]/.test(text)) return ' (CEL compares with ==)';
  return '';
}

/** Parses and checks one expression: a boolean over the signals of `scope`, else every mistake found. */
export function compileExpression(text: string, scope: Scope): Expression | readonly Mistake[] {
  const env = environments[scope];
  let parsed: ParseResult;
  try {
    parsed = env.parse(text);
  } catch (thrown) {
    const error = thrown as { summary?: string; message: string; range?: { start: number } };
    const start = Math.min(error.range?.start ?? 0, Math.max(0, text.length));
    return [{ start, message: `not a CEL expression: ${lower(error.summary ?? error.message)}${habit(text)}` }];
  }
  const { signals, mistakes } = references(parsed.ast, scope);
  if (mistakes.length > 0) return mistakes;
  const checked = parsed.check();
  if (!checked.valid) {
    const error = checked.error!;
    const said = error.summary.replace(/^no such overload: /i, 'wrong types: ');
    return [{ start: error.range?.start ?? 0, message: `${said}${typesOf(signals, scope)}` }];
  }
  if (checked.type !== 'bool')
    return [
      { start: 0, message: `must be true or false, but it is of type ${checked.type}${typesOf(signals, scope)}` },
    ];
  return { text, signals, evaluate: compileNode(parsed.ast, scope) };
}

const typesOf = (signals: readonly string[], scope: Scope): string =>
  signals.length === 0 ? '' : ` (${signals.map(name => `${name} is ${types[scope].get(name)}`).join(', ')})`;

const lower = (text: string): string => text.charAt(0).toLowerCase() + text.slice(1);

/** `feedback.new = 120, f1.alarm = unknown` */
export const withValues = (expression: Expression, values: Values): string =>
  expression.signals.map(name => `${name} = ${show(values[name])}`).join(', ');

export const show = (value: SignalValue | undefined): string =>
  value === null || value === undefined
    ? 'unknown'
    : typeof value === 'number' && !Number.isInteger(value)
      ? String(Number(value.toPrecision(4)))
      : String(value);
