/**
 * Objectives whose loss looks at several sequences at once, trained through the same clipping as next-token loss. An item's loss
 * is a function of its sequences' log-probabilities alone, so its gradient is sum over sequences of (d loss / d log-probability) *
 * gradient of the log-probability: one forward for the log-probabilities, then the ordinary pass with these derivatives as
 * token weights. Exact, and an item never crosses a privacy unit: another unit's data cannot change a unit's gradient.
 */
import { LearndError } from '../../../base/errors.ts';
import type { Example } from '../../model/engine/units.ts';

/** Sequences that share one loss. Each is an object of its own: an `Example` belongs to one item. */
export interface Item {
  readonly sequences: readonly Example[];
  /** Of `logProbabilities` (summed over the scored tokens of each sequence, nats) and of what the starting weights gave. */
  readonly loss: (logProbabilities: readonly number[], references: readonly number[]) => ItemLoss;
  /** The starting weights' log-probabilities are wanted. */
  readonly referenced: boolean;
}

export interface ItemLoss {
  /** Nats, or what the objective counts in. */
  readonly loss: number;
  /** d loss / d log-probability of each sequence. */
  readonly slopes: readonly number[];
  /** For a choice: the right one is the likeliest at every node of its path. */
  readonly correct?: boolean;
}

/** Summed log-probability of the scored tokens of each example, at the weights as they are. */
export type LogProbabilities = (examples: readonly Example[]) => Promise<Float64Array>;

export interface Weighed {
  /** For `PassOptions.tokenWeight`. */
  readonly tokenWeight: (example: Example) => number | undefined;
  /**
   * Mean loss over the items, for the non-private; under privacy it is NOT covered by the noise. undefined: what the pass itself
   * measures, nats a token.
   */
  readonly loss: number | undefined;
  /** For a choice: whether each item was right, at the weights before the step. Not covered by the noise. */
  readonly correct: ReadonlyMap<Item, boolean>;
}

/** What a training is told of an objective. Plain next-token and instruction training need none. */
export interface Objective {
  readonly name: string;
  /** Groups of examples that must be drawn together by a minibatch without privacy units. */
  readonly items: readonly Item[];
  /** The items of a unit, given its examples. */
  itemsOf(unit: readonly Example[]): readonly Item[];
  /** Called once, before the first step, with the starting weights. */
  prepare(logProbabilities: LogProbabilities): Promise<void>;
  /** Weights for one step: each unit's loss is the mean over its items. `factor` multiplies an item's loss (constraints). */
  weigh(
    units: readonly (readonly Example[])[],
    logProbabilities: LogProbabilities,
    factor?: (item: Item) => number,
  ): Promise<Weighed>;
}

/** An objective over units of items, and the units as the training takes them. */
export interface ObjectiveUnits {
  readonly objective: Objective;
  readonly units: readonly (readonly Example[])[];
}

export function objectiveOf(name: string, unitItems: readonly (readonly Item[])[]): ObjectiveUnits {
  const itemOf = new Map<Example, Item>();
  const items = unitItems.flat();
  for (const item of items)
    for (const example of item.sequences) {
      if (itemOf.has(example)) throw new LearndError('internal', `a sequence of ${name} belongs to two items`);
      itemOf.set(example, item);
    }
  const references = new Map<Example, number>();
  const units = unitItems.map(unit => unit.flatMap(item => item.sequences));
  return {
    units,
    objective: {
      name,
      items,
      itemsOf: unit => [...new Set(unit.map(example => itemOf.get(example)!))],
      prepare: async logProbabilities => {
        const wanted = items.filter(item => item.referenced).flatMap(item => item.sequences);
        if (wanted.length === 0) return;
        const found = await logProbabilities(wanted);
        wanted.forEach((example, i) => {
          references.set(example, found[i]!);
        });
      },
      weigh: async (drawn, logProbabilities, factor) => {
        const examples = drawn.flat();
        const found = await logProbabilities(examples);
        const at = new Map(examples.map((example, i) => [example, found[i]!]));
        const weights = new Map<Example, number>();
        const correct = new Map<Item, boolean>();
        let total = 0;
        let count = 0;
        for (const unit of drawn) {
          const own = new Set(unit.map(example => itemOf.get(example)!));
          for (const item of own) {
            const result = item.loss(
              item.sequences.map(example => at.get(example)!),
              item.referenced ? item.sequences.map(example => reference(references, example, name)) : [],
            );
            const { loss, slopes } = result;
            if (result.correct !== undefined) correct.set(item, result.correct);
            total += loss;
            count += 1;
            const share = (factor?.(item) ?? 1) / own.size;
            // Cross-entropy is minus the log-probability.
            item.sequences.forEach((example, i) => {
              weights.set(example, -slopes[i]! * share);
            });
          }
        }
        return { tokenWeight: example => weights.get(example), loss: count === 0 ? undefined : total / count, correct };
      },
    },
  };
}

function reference(references: ReadonlyMap<Example, number>, example: Example, name: string): number {
  const value = references.get(example);
  if (value === undefined)
    throw new LearndError('internal', `${name}: the starting weights were not asked before a step`);
  return value;
}
