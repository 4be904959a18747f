import { invalid, LearndError, laterVersion } from '../../base/errors.ts';
import {
  type Action,
  type ActionOf,
  augmentNotBuilt,
  augmentSenseless,
  calibrationFault,
} from '../../events/actions.ts';
import { type ConstraintSpec, declaredConstraint } from '../../learn/training/constraints/declared.ts';
import type { Gaps } from '../../learn/training/pretrain-examples.ts';

/** What a round will do, read off its actions before anything is touched. */
export type Program =
  | {
      readonly kind: 'candidate';
      readonly finetunes: readonly Finetune[];
      readonly prune: ActionOf<'prune'> | undefined;
      readonly distill: ActionOf<'distill'> | undefined;
      readonly quantize: ActionOf<'quantize'> | undefined;
    }
  /** Re-measures the champion's card. */
  | { readonly kind: 'evaluate' }
  /** Moves the alias back. */
  | { readonly kind: 'rollback' }
  /** Nothing but notifications. */
  | { readonly kind: 'nothing' };

export interface Finetune {
  /** `auto`: which of bias, norms, lora and full, is decided by public constants when the cost is planned (training/auto.ts). */
  readonly method: 'auto' | 'head' | 'bias' | 'norms' | 'lora' | 'full';
  readonly data: 'feedback' | 'documents';
  /** `auto` on feedback: by what the view holds, when it is frozen. */
  readonly objective: 'auto' | 'next_token' | 'instruct' | 'classify' | 'preference';
  readonly epsilon: number | 'none';
  readonly minutes: number;
  /** Variants of what is learned from, which count with it as one. */
  readonly augment?: boolean;
  /** Of pre-training that learns from gaps as well. */
  readonly gaps?: Gaps;
  /** Against forgetting; undefined: the default of the data. */
  readonly replay?: number;
  readonly kl?: number;
  readonly ema?: number;
  /** Heads start from the champion's. */
  readonly goOn?: boolean;
  readonly constraints: readonly ConstraintSpec[];
}

/** Order of the parts of a chain: what is trained is made smaller, recovers by learning from what it was, and is then encoded shorter. */
const ORDER = ['pretrain', 'finetune', 'prune', 'distill', 'quantize'] as const;

/**
 * @throws LearndError('unavailable_feature') naming what this version cannot do; 'invalid' for a chain that makes no sense;
 *   'forbidden' for training without noise on what no declaration covers.
 */
export function programOf(actions: readonly Action[]): Program {
  const chain: Action[] = [];
  const alone: Array<'evaluate' | 'rollback'> = [];
  for (const action of actions) {
    switch (action.do) {
      case 'pretrain':
      case 'finetune':
      case 'prune':
      case 'distill':
      case 'quantize':
        chain.push(action);
        break;
      case 'evaluate':
      case 'rollback':
        alone.push(action.do);
        break;
      case 'notify':
        break;
      default:
        throw laterVersion(`the action ${(action as Action).do}`);
    }
  }
  if (alone.includes('rollback')) {
    if (chain.length > 0) throw invalid('do', 'rollback cannot be combined with actions that make a candidate');
    return { kind: 'rollback' };
  }
  // A candidate's round measures the champion beside it anyway.
  if (chain.length === 0) return { kind: alone.length > 0 ? 'evaluate' : 'nothing' };
  const places = chain.map(action => ORDER.indexOf(action.do as (typeof ORDER)[number]));
  if (places.some((place, i) => i > 0 && place < places[i - 1]!))
    throw laterVersion(`a chain in the order ${chain.map(action => action.do).join(', ')} (${ORDER.join(', ')})`);
  for (const name of ['pretrain', 'prune', 'distill', 'quantize'] as const)
    if (chain.filter(action => action.do === name).length > 1)
      throw invalid('do', `${name} appears twice in one round`);
  for (const action of chain) if (action.do === 'prune') checkCalibration(action);
  return {
    kind: 'candidate',
    finetunes: chain.flatMap(action =>
      action.do === 'pretrain' ? [pretrained(action)] : action.do === 'finetune' ? [finetune(action)] : [],
    ),
    prune: chain.find(action => action.do === 'prune'),
    distill: distilled(chain),
    quantize: chain.find(action => action.do === 'quantize'),
  };
}

function checkCalibration(action: ActionOf<'prune'>): void {
  const fault = calibrationFault(action);
  if (fault !== undefined) throw invalid(...fault);
}

/** Without a teacher of its own it learns from what pruning made smaller: there must be something to recover. */
function distilled(chain: readonly Action[]): ActionOf<'distill'> | undefined {
  const action = chain.find(part => part.do === 'distill');
  if (action !== undefined && action.teacher === undefined && !chain.some(part => part.do === 'prune'))
    throw invalid(
      'teacher',
      'distill without prune before it needs a teacher: a version, by its number or as name@number',
    );
  return action;
}

/** Goes on pre-training: all weights, next words and gaps, on documents; without noise where nothing else is said: public ones. */
function pretrained(action: ActionOf<'pretrain'>): Finetune {
  const { epsilon = 'none', max_minutes, objective = 'causal', masked_share: share, bidirectional } = action;
  if (objective !== 'mixed' && (share !== undefined || bidirectional !== undefined))
    throw invalid('objective', 'masked_share and bidirectional belong to objective: mixed');
  const whole = finetune({
    ...{ do: 'finetune', data: 'documents', method: 'full', objective: 'next_token' },
    ...{ epsilon, max_minutes: max_minutes ?? PRETRAIN_MINUTES },
  });
  if (objective === 'causal') return whole;
  if (objective === 'masked') return { ...whole, gaps: { kind: objective } };
  return { ...whole, gaps: { kind: objective, share: share ?? 0.5, bidirectional: bidirectional ?? false } };
}

const PRETRAIN_MINUTES = 20;

function finetune(action: ActionOf<'finetune'>): Finetune {
  const { data, epsilon, objective, method, replay, kl, ema, go_on: goOn, constraints = [] } = action;
  const missing = augmentNotBuilt(action);
  if (missing !== undefined) throw laterVersion(missing);
  checkCombination(action);
  return {
    ...{ method, data, objective, epsilon, minutes: action.max_minutes },
    ...(action.augment === true && { augment: true }),
    ...(goOn !== undefined && { goOn }),
    ...{ ...(replay !== undefined && { replay }), ...(kl !== undefined && { kl }), ...(ema !== undefined && { ema }) },
    constraints: constraints.map(declaredConstraint),
  };
}

/** What a policy's check says as well; rounds begun by hand come here first. */
function checkCombination(action: ActionOf<'finetune'>): void {
  const { data, epsilon, objective, method } = action;
  const senseless = augmentSenseless(action);
  if (senseless !== undefined) throw invalid(...senseless);
  if (data === 'documents') {
    if (method === 'head') throw invalid('method', 'a head is trained on feedback: documents have no labels');
    if (objective !== 'auto' && objective !== 'next_token')
      throw invalid('objective', `documents are learned as text (next_token); ${objective} learns from feedback`);
    return;
  }
  if (epsilon === 'none')
    throw new LearndError(
      'forbidden',
      'epsilon: none is for documents of sources declared public; feedback is private',
      {
        field: 'epsilon',
        hint: 'Give a number, e.g. epsilon: 1',
      },
    );
  if (method === 'bias') throw invalid('method', 'a bias on the vocabulary is learned from documents');
  if (objective === 'next_token')
    throw invalid('objective', 'feedback is learned by instruct, classify or preference; next_token is for documents');
  if (method === 'head' && objective !== 'auto' && objective !== 'classify')
    throw invalid('objective', `a head only classifies: ${objective} needs norms, lora or full`);
}
