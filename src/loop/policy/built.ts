import { type LearndError, laterVersion } from '../../base/errors.ts';
import { type Action, type ActionName, augmentNotBuilt } from '../../events/actions.ts';

/** Actions that this version can carry out. Others parse, because the contract has them; a round that contains one is refused by name. */
export const BUILT_ACTIONS: ReadonlySet<ActionName> = new Set([
  'pretrain',
  'finetune',
  'prune',
  'distill',
  'quantize',
  'evaluate',
  'rollback',
  'notify',
]);

/** @returns LearndError('unavailable_feature') that names what of this action is not built, or undefined. */
export function notBuilt(action: Action): LearndError | undefined {
  if (!BUILT_ACTIONS.has(action.do)) return laterVersion(`the action ${action.do}`);
  switch (action.do) {
    case 'finetune': {
      const missing = augmentNotBuilt(action);
      return missing === undefined ? undefined : laterVersion(missing);
    }
    default:
      return undefined;
  }
}

/** What is trained is made smaller, recovers by learning from what it was, and is then encoded shorter. */
const CHAIN: readonly ActionName[] = ['pretrain', 'finetune', 'prune', 'distill', 'quantize'];

/** What of a whole list under `do` is not built: one of its actions, or their order. */
export function chainNotBuilt(actions: readonly Action[]): LearndError | undefined {
  for (const action of actions) {
    const missing = notBuilt(action);
    if (missing) return missing;
  }
  const places = actions.map(action => CHAIN.indexOf(action.do)).filter(place => place >= 0);
  if (places.some((place, i) => i > 0 && place < places[i - 1]!))
    return laterVersion(`a round in the order ${actions.map(a => a.do).join(', ')} (built: ${CHAIN.join(', ')})`);
  return undefined;
}
