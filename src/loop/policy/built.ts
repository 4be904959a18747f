import { type LearndError, laterVersion } from '../../base/errors.ts';
import type { Action, ActionName } from '../../events/actions.ts';

/** Actions that this version can carry out. Others parse, because the contract has them; a round that contains one is refused by name. */
export const BUILT_ACTIONS: ReadonlySet<ActionName> = new Set([
  'finetune',
  'prune',
  'quantize',
  'evaluate',
  'rollback',
  'notify',
]);

export const BUILT_METHODS: ReadonlySet<string> = new Set(['auto', 'head', 'norms', 'lora']);
export const BUILT_OBJECTIVES: ReadonlySet<string> = new Set(['auto', 'next_token', 'classify']);
export const BUILT_QUANTIZATIONS: ReadonlySet<string> = new Set(['f32', 'f16', 'q8_0', 'q5_0', 'q4_0']);

/** @returns LearndError('unavailable_feature') that names what of this action is not built, or undefined. */
export function notBuilt(action: Action): LearndError | undefined {
  if (!BUILT_ACTIONS.has(action.do)) return laterVersion(`the action ${action.do}`);
  switch (action.do) {
    case 'finetune':
      if (!BUILT_METHODS.has(action.method)) return laterVersion(`finetune with method ${action.method}`);
      if (!BUILT_OBJECTIVES.has(action.objective)) return laterVersion(`finetune with objective ${action.objective}`);
      if (action.augment === true) return laterVersion('finetune with augment');
      return undefined;
    case 'prune':
      return action.calibration === 'private' ? laterVersion('prune with private calibration') : undefined;
    case 'quantize':
      return BUILT_QUANTIZATIONS.has(action.type) ? undefined : laterVersion(`quantize to ${action.type}`);
    default:
      return undefined;
  }
}
