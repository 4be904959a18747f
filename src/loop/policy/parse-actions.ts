import { asLearndError } from '../../base/errors.ts';
import {
  ACTIONS,
  type Action,
  type ActionName,
  type ActionOf,
  augmentSenseless,
  CONSTRAINT_KINDS,
  CONSTRAINT_SHAPES,
  type Constraint,
  calibrationFault,
} from '../../events/actions.ts';
import { parsePattern } from '../../learn/training/constraints/index.ts';
import { chainNotBuilt } from './built.ts';
import { type Collector, reportIssues } from './collect.ts';
import { nearest, type Path } from './source.ts';

const NAMES = Object.keys(ACTIONS) as ActionName[];
const isAction = (name: string): name is ActionName => Object.hasOwn(ACTIONS, name);

/** Reads the list under `do`. An action is a mapping of its name to its parameters, or the bare name where it needs none. */
export function parseActions(raw: readonly unknown[], path: Path, budget: number, to: Collector): Action[] | undefined {
  const actions: Action[] = [];
  let failed = false;
  raw.forEach((item, index) => {
    const action = parseAction(item, [...path, index], budget, to);
    if (action) actions.push(action);
    else failed = true;
  });
  if (failed) return undefined;
  const rollback = actions.findIndex(a => a.do === 'rollback');
  if (rollback >= 0 && actions.some(a => a.do !== 'rollback' && a.do !== 'notify')) {
    to.error(
      to.source.value([...path, rollback]),
      [...path, rollback],
      'rollback makes no candidate: it stands alone, or beside notify',
    );
    return undefined;
  }
  for (const name of ['pretrain', 'prune', 'distill', 'quantize'] as const) {
    const again = actions.map(a => a.do).lastIndexOf(name);
    if (actions.findIndex(a => a.do === name) === again) continue;
    to.error(to.source.value([...path, again]), [...path, again], `${name} appears twice in one round`);
    return undefined;
  }
  const taught = actions.findIndex(a => a.do === 'distill' && a.teacher === undefined);
  if (taught >= 0 && !actions.some(a => a.do === 'prune')) {
    const message = 'distill without prune in its round needs a teacher (a version: its number, or name@number)';
    to.error(to.source.value([...path, taught]), [...path, taught], message);
    return undefined;
  }
  const missing = chainNotBuilt(actions);
  if (missing) to.warning(to.source.value(path), path, `${missing.message}: a round with it will be refused`);
  return actions;
}

function parseAction(item: unknown, path: Path, budget: number, to: Collector): Action | undefined {
  const { source } = to;
  const entry: [string, unknown] | undefined =
    typeof item === 'string'
      ? [item, {}]
      : typeof item === 'object' && item !== null && Object.keys(item).length === 1
        ? (Object.entries(item)[0] as [string, unknown])
        : undefined;
  if (!entry) {
    to.error(
      source.value(path),
      path,
      `an action is one name with its parameters, such as "- quantize: { type: q8_0 }"`,
    );
    return undefined;
  }
  const [name, parameters] = entry;
  const inner: Path = typeof item === 'string' ? path : [...path, name];
  if (!isAction(name)) {
    const meant = nearest(name, NAMES);
    to.error(
      typeof item === 'string' ? source.value(path) : source.key(path, name),
      path,
      `unknown action "${name}"; ${meant === undefined ? `known are ${NAMES.join(', ')}` : `did you mean "${meant}"?`}`,
    );
    return undefined;
  }
  const schema = ACTIONS[name];
  const result = schema.safeParse(parameters ?? {});
  if (!result.success) {
    reportIssues(result.error.issues, inner, at => knownKeys(schema, parameters, at.slice(inner.length)), to);
    return undefined;
  }
  const action = { do: name, ...result.data } as Action;
  if (!meaningful(action, inner, budget, to)) return undefined;
  return action;
}

/** What may stand at a path below an action: the keys of a constraint are those of the kind it names. */
function knownKeys(schema: { shape: object }, parameters: unknown, below: Path): readonly string[] {
  if (below[0] !== 'constraints') return Object.keys(schema.shape);
  const named = (parameters as { constraints?: unknown[] }).constraints?.[Number(below[1])];
  const kind = CONSTRAINT_KINDS.find(candidate => typeof named === 'object' && named !== null && candidate in named);
  return kind === undefined ? CONSTRAINT_KINDS : Object.keys(CONSTRAINT_SHAPES[kind].shape);
}

/** A cost that the budget has room for; none: there is something public. */
function affordable(
  epsilon: number | 'none',
  wrong: (key: string, message: string) => false,
  budget: number,
  { settings }: Collector,
): boolean {
  if (epsilon === 'none') {
    if (settings && !settings.sources.some(s => s.public))
      return wrong(
        'epsilon',
        'epsilon: none trains on public documents only, and settings declare no public source (sources: [{ name: …, public: true }])',
      );
  } else if (epsilon > budget)
    return wrong(
      'epsilon',
      `epsilon ${epsilon} is more than the whole budget of ${budget}: every such round would be refused`,
    );
  return true;
}

/** What the shape alone cannot say: combinations that could never run. */
function meaningful(action: Action, path: Path, budget: number, to: Collector): boolean {
  const { source, settings } = to;
  const wrong = (key: string, message: string): false => {
    to.error(source.value([...path, key]), [...path, key], message);
    return false;
  };
  if (action.do === 'prune' && action.ffn === undefined && action.drop_layers === undefined) {
    to.error(source.value(path), path, 'prune needs ffn (width kept) or drop_layers (number dropped)');
    return false;
  }
  if (action.do === 'prune') {
    const fault = calibrationFault(action);
    if (fault !== undefined) return wrong(...fault);
    return action.epsilon === undefined || affordable(action.epsilon, wrong, budget, to);
  }
  if (action.do === 'pretrain' && action.objective !== 'mixed') {
    const alone = (['masked_share', 'bidirectional'] as const).find(name => action[name] !== undefined);
    if (alone !== undefined) return wrong(alone, 'belongs to objective: mixed');
  }
  if (action.do === 'pretrain') return affordable(action.epsilon ?? 'none', wrong, budget, to);
  if (action.do !== 'finetune') return true;
  if (action.epsilon === 'none') {
    if (action.data === 'feedback')
      return wrong('epsilon', 'feedback is private: epsilon: none is for documents from sources declared public');
  }
  if (!affordable(action.epsilon, wrong, budget, to)) return false;
  if (action.data === 'documents' && (action.method === 'head' || action.objective === 'classify'))
    return wrong(
      action.method === 'head' ? 'method' : 'objective',
      'documents have no labels: a head is trained on feedback',
    );
  const { objective, method } = action;
  if (action.data === 'documents' && objective !== 'auto' && objective !== 'next_token')
    return wrong('objective', `documents are learned as text (next_token); ${objective} learns from feedback`);
  if (action.data === 'feedback' && objective === 'next_token')
    return wrong('objective', 'feedback is learned by instruct, classify or preference; next_token is for documents');
  if (action.data === 'feedback' && method === 'bias')
    return wrong('method', 'a bias on the vocabulary is learned from documents');
  if (method === 'head' && objective !== 'auto' && objective !== 'classify')
    return wrong('objective', `a head only classifies: ${objective} needs norms, lora or full`);
  const senseless = augmentSenseless(action);
  if (senseless !== undefined) return wrong(...senseless);
  if (action.go_on === true && (action.data === 'documents' || (method !== 'head' && method !== 'auto')))
    return wrong('go_on', 'go_on is for heads; the language model always goes on from the champion');
  if (!constraintsMeaningful(action, path, to)) return false;
  if (action.data === 'feedback' && settings && settings.tasks.length === 0)
    to.warning(
      source.value(path),
      path,
      'settings declare no tasks, so labels count as undeclared: there is no labelled feedback to train on',
    );
  return true;
}

/** Tasks and labels must be declared; what cannot be violated is pointed out. */
function constraintsMeaningful(action: ActionOf<'finetune'>, path: Path, to: Collector): boolean {
  const { source, settings } = to;
  let fine = true;
  for (const [i, constraint] of (action.constraints ?? []).entries()) {
    const at: Path = [...path, 'constraints', i];
    const wrong = (keys: Path, message: string): void => {
      to.error(source.value([...at, ...keys]), [...at, ...keys], message);
      fine = false;
    };
    for (const [keys, message] of wrongPatterns(constraint)) wrong(keys, message);
    const asked = labelsOf(constraint);
    if (asked === undefined) {
      if (action.method === 'head')
        to.warning(source.value(at), at, 'a head leaves the language model as it is: this constraint changes nothing');
      continue;
    }
    const { key, task, labels } = asked;
    if (action.data === 'documents') {
      wrong([key], `documents have no labels: ${key} is for rounds on feedback`);
      continue;
    }
    if (settings === undefined) continue;
    const declared = settings.tasks.find(known => known.name === task);
    if (declared === undefined) {
      const meant = nearest(
        task,
        settings.tasks.map(known => known.name),
      );
      wrong(
        [key, 'task'],
        `settings declare no task "${task}"${meant === undefined ? '' : `; did you mean "${meant}"?`}`,
      );
      continue;
    }
    for (const [keys, label] of labels) {
      if (declared.labels.includes(label)) continue;
      const meant = nearest(label, declared.labels);
      wrong(
        [key, ...keys],
        `the task ${task} has no label "${label}"${meant === undefined ? '' : `; did you mean "${meant}"?`}`,
      );
    }
  }
  return fine;
}

/** Forms of text that cannot be read, each with its path. */
function wrongPatterns(constraint: Constraint): [Path, string][] {
  if (!('forbidden' in constraint)) return [];
  return (constraint.forbidden.patterns ?? []).flatMap((given, n): [Path, string][] => {
    const { prompt, pattern } = typeof given === 'string' ? { prompt: undefined, pattern: given } : given;
    const at: Path = ['forbidden', 'patterns', n, ...(typeof given === 'string' ? [] : ['pattern'])];
    try {
      if (prompt !== undefined || parsePattern(pattern).literal.trim().length > 1) return [];
      return [[at, `${JSON.stringify(pattern)} needs a prompt, or a beginning of two characters that is written out`]];
    } catch (error) {
      return [[at, asLearndError(error).message]];
    }
  });
}

/** What a constraint on classes names, with the path of each label; undefined for one on text. */
function labelsOf(
  constraint: Constraint,
): { key: 'recall' | 'gap'; task: string; labels: ReadonlyArray<readonly [Path, string]> } | undefined {
  if ('recall' in constraint) {
    const { task, label } = constraint.recall;
    return { key: 'recall', task, labels: [[['label'], label]] };
  }
  if (!('gap' in constraint)) return undefined;
  const { task, labels = {} } = constraint.gap;
  const named = Object.entries(labels).flatMap(([group, of]) =>
    of.map((label, i): [Path, string] => [['labels', group, i], label]),
  );
  return { key: 'gap', task, labels: named };
}
