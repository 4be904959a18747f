import { ACTIONS, type Action, type ActionName } from '../../events/actions.ts';
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
  for (const name of ['prune', 'quantize'] as const) {
    const again = actions.map(a => a.do).lastIndexOf(name);
    if (actions.findIndex(a => a.do === name) === again) continue;
    to.error(to.source.value([...path, again]), [...path, again], `${name} appears twice in one round`);
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
    reportIssues(result.error.issues, inner, () => Object.keys(schema.shape), to);
    return undefined;
  }
  const action = { do: name, ...result.data } as Action;
  if (!meaningful(action, inner, budget, to)) return undefined;
  return action;
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
  if (action.do !== 'finetune') return true;
  if (action.epsilon === 'none') {
    if (action.data === 'feedback')
      return wrong('epsilon', 'feedback is private: epsilon: none is for documents from sources declared public');
    if (settings && !settings.sources.some(s => s.public))
      return wrong(
        'epsilon',
        'epsilon: none trains on public documents only, and settings declare no public source (sources: [{ name: …, public: true }])',
      );
  } else if (action.epsilon > budget)
    return wrong(
      'epsilon',
      `epsilon ${action.epsilon} is more than the whole budget of ${budget}: every such round would be refused`,
    );
  if (action.data === 'documents' && (action.method === 'head' || action.objective === 'classify'))
    return wrong(
      action.method === 'head' ? 'method' : 'objective',
      'documents have no labels: a head is trained on feedback',
    );
  if (action.data === 'feedback' && settings && settings.tasks.length === 0)
    to.warning(
      source.value(path),
      path,
      'settings declare no tasks, so labels count as undeclared: there is no labelled feedback to train on',
    );
  return true;
}
