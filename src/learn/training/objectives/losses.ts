/** Losses as functions of log-probabilities, with their derivatives. Formulas: algorithms 7, checked against TRL. */

import type { Example } from '../../model/engine/units.ts';
import { scoredTokens } from '../../model/engine/units.ts';
import type { Item, ItemLoss } from './objective.ts';

export const sigmoid = (x: number): number => (x >= 0 ? 1 / (1 + Math.exp(-x)) : Math.exp(x) / (1 + Math.exp(x)));
/** log(1 + e^x), without overflow. */
const softplus = (x: number): number => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));

/** -log sigmoid(beta ((lp - ref) of the chosen - (lp - ref) of the rejected)) (arXiv 2305.18290). */
export function dpoLoss(
  [chosen, rejected]: readonly [number, number],
  [chosenReference, rejectedReference]: readonly [number, number],
  beta: number,
): ItemLoss {
  const margin = beta * (chosen - chosenReference - (rejected - rejectedReference));
  const slope = -beta * sigmoid(-margin);
  return { loss: softplus(-margin), slopes: [slope, -slope] };
}

/** -log sigmoid(beta (mean lp of the chosen - mean lp of the rejected) - gamma) (arXiv 2405.14734); no reference. */
export function simpoLoss(
  [chosen, rejected]: readonly [number, number],
  [chosenTokens, rejectedTokens]: readonly [number, number],
  { beta, gamma }: { beta: number; gamma: number },
): ItemLoss {
  const margin = beta * (chosen / chosenTokens - rejected / rejectedTokens) - gamma;
  const slope = -beta * sigmoid(-margin);
  return { loss: softplus(-margin), slopes: [slope / chosenTokens, -slope / rejectedTokens] };
}

/**
 * KTO (arXiv 2402.01306) with z0 = 0 (TRL's `apo_zero_unpaired`): 1 - sigmoid(beta r) for a liked answer, sigmoid(beta r) for a
 * disliked one, r = lp - ref. The published z0 is a mean over the batch: one person's data would enter another's gradient, and
 * clipping each would no longer bound what each contributes.
 */
export function ktoLoss(logProbability: number, reference: number, liked: boolean, beta: number): ItemLoss {
  const s = sigmoid(beta * (logProbability - reference));
  const slope = beta * s * (1 - s);
  return liked ? { loss: 1 - s, slopes: [-slope] } : { loss: s, slopes: [slope] };
}

/**
 * Cross-entropy of a softmax over log-probabilities: derivatives p - one-hot. Summed over `nodes`, each of which compares some of
 * the sequences (a node of the label trie: the tokens that may come next, of which `target` leads to the right label).
 */
export function choiceLoss(
  logProbabilities: readonly number[],
  nodes: readonly { readonly members: readonly number[]; readonly target: number }[],
): ItemLoss {
  const slopes: number[] = logProbabilities.map(() => 0);
  let loss = 0;
  let correct = true;
  for (const { members, target } of nodes) {
    const most = Math.max(...members.map(i => logProbabilities[i]!));
    const weights = members.map(i => Math.exp(logProbabilities[i]! - most));
    const total = weights.reduce((sum, w) => sum + w, 0);
    loss += most + Math.log(total) - logProbabilities[target]!;
    correct &&= logProbabilities[target]! === most;
    members.forEach((i, at) => {
      slopes[i]! += weights[at]! / total - (i === target ? 1 : 0);
    });
  }
  return { loss, slopes, correct };
}

export interface DpoSettings {
  readonly kind: 'dpo';
  /** Default 0.1. */
  readonly beta?: number;
}
export interface SimpoSettings {
  readonly kind: 'simpo';
  /** Default 2 and 0.5 (published: beta 2-2.5, gamma 0.5-1.5). */
  readonly beta?: number;
  readonly gamma?: number;
}

/** A preferred and a rejected answer to one prompt: both belong to one item, hence to one unit. */
export function preferenceItem(
  chosen: Example,
  rejected: Example,
  settings: DpoSettings | SimpoSettings = { kind: 'dpo' },
): Item {
  const sequences = [chosen, rejected];
  if (settings.kind === 'dpo') {
    const { beta = 0.1 } = settings;
    return {
      sequences,
      referenced: true,
      loss: ([w, l], [refW, refL]) => dpoLoss([w!, l!], [refW!, refL!], beta),
    };
  }
  const { beta = 2, gamma = 0.5 } = settings;
  const lengths = [scoredTokens(chosen), scoredTokens(rejected)] as const;
  return { sequences, referenced: false, loss: ([w, l]) => simpoLoss([w!, l!], lengths, { beta, gamma }) };
}

/** A served answer and whether it was liked. Default beta 0.1. */
export function ratingItem(answer: Example, liked: boolean, beta = 0.1): Item {
  return {
    sequences: [answer],
    referenced: true,
    loss: ([lp], [ref]) => ktoLoss(lp!, ref!, liked, beta),
  };
}
