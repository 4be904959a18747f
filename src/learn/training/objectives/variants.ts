import { invalid } from '../../../base/errors.ts';
import { type Example, scoredTokens } from '../../model/engine/units.ts';
import type { Item, Objective, ObjectiveUnits } from './objective.ts';

/*
 * Examples with variants (learn/augment). A unit's gradient is the mean over its examples of the mean over {example, its variants}, taken
 * before it is clipped: by weights of the sequences inside the unit, so that neither sampling nor divisor nor the number of examples
 * that count knows of variants, and no unit's weights depend on another's.
 */

/**
 * The ordinary loss (next token, instruction) on groups of an example and its variants, `unitGroups[unit][example]`, the example first.
 * `mean`: of what a step draws together. 'examples': each example alike, as under privacy; 'tokens': each token of an example and of its
 * variants alike, variants sharing the weight of one, as training without a plan has it.
 */
export function variantUnits(
  unitGroups: readonly (readonly (readonly Example[])[])[],
  mean: 'examples' | 'tokens',
): ObjectiveUnits {
  const itemOf = new Map<Example, Item>();
  const unitItems = unitGroups.map(groups =>
    groups.flatMap(group => {
      const sequences = group.filter(example => scoredTokens(example) > 0);
      if (sequences.length === 0) return [];
      const item: Item = { sequences, referenced: false, loss: meanLoss(sequences) };
      for (const example of sequences) {
        if (itemOf.has(example)) throw invalid('variants', 'an example stands in two groups');
        itemOf.set(example, item);
      }
      return [item];
    }),
  );
  const itemsOf: Objective['itemsOf'] = unit => [...new Set(unit.map(example => itemOf.get(example)!))];
  return {
    units: unitItems.map(items => items.flatMap(({ sequences }) => sequences)),
    objective: {
      name: `variants, mean of ${mean}`,
      items: unitItems.flat(),
      itemsOf,
      prepare: async () => undefined,
      // The weights are known without a look at the log-probabilities.
      weigh: async (drawn, _, factor) => {
        const weights = new Map<Example, number>();
        for (const unit of drawn) {
          const items = itemsOf(unit);
          const total = items.reduce((sum, item) => sum + (mean === 'examples' ? 1 : tokensOf(item)), 0);
          for (const item of items) {
            const share = (factor?.(item) ?? 1) / (total * item.sequences.length);
            for (const example of item.sequences)
              weights.set(example, mean === 'examples' ? share / scoredTokens(example) : share);
          }
        }
        return { tokenWeight: example => weights.get(example), loss: undefined, correct: new Map() };
      },
    },
  };
}

/** Scored tokens of an example: those of its variants with it, on average. */
const tokensOf = ({ sequences }: Item): number =>
  sequences.reduce((sum, example) => sum + scoredTokens(example), 0) / sequences.length;

const meanLoss =
  (sequences: readonly Example[]): Item['loss'] =>
  logProbabilities => {
    const slopes = sequences.map(example => -1 / (scoredTokens(example) * sequences.length));
    return { loss: logProbabilities.reduce((sum, p, i) => sum + slopes[i]! * p, 0), slopes };
  };

/** One item of an item and its variants: their mean loss; what is right is what the first, the text as it was said, gets right. */
export function meanItem(items: readonly Item[]): Item {
  if (items.length === 1) return items[0]!;
  const counts = items.map(item => item.sequences.length);
  const from = counts.map((_, i) => counts.slice(0, i).reduce((a, b) => a + b, 0));
  return {
    sequences: items.flatMap(item => item.sequences),
    referenced: items.some(item => item.referenced),
    loss: (logProbabilities, references) => {
      const part = (values: readonly number[], i: number) => values.slice(from[i], from[i]! + counts[i]!);
      const found = items.map((item, i) => item.loss(part(logProbabilities, i), part(references, i)));
      const correct = found[0]!.correct;
      return {
        loss: found.reduce((sum, { loss }) => sum + loss, 0) / items.length,
        slopes: found.flatMap(({ slopes }) => slopes.map(slope => slope / items.length)),
        ...(correct !== undefined && { correct }),
      };
    },
  };
}
