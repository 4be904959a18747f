import { createHash } from 'node:crypto';
import { invalid } from '../../base/errors.ts';
import { streamFor } from '../privacy/index.ts';
import { applyOperation, OPERATIONS, type Operation } from './operations.ts';
import { openWordNet, type Thesaurus } from './thesaurus.ts';
import { coreOf } from './words.ts';

export interface AugmentOptions {
  /** The same seed and text give the same variants, whatever else is augmented beside it. */
  readonly seed: string;
  /** Variants of each example; fewer where a text offers no more different ones. Default 4 (EDA: 16 below 500 examples, 4 above 5,000). */
  readonly count?: number;
  /** Taken in turn. Default: all. */
  readonly operations?: readonly Operation[];
  /** Share of the words changed. Default 0.1. */
  readonly alpha?: number;
  /** Label names whose words are never touched or brought in, so that a variant cannot come to mean another label. */
  readonly labels?: readonly string[];
  /** Default: WordNet. */
  readonly thesaurus?: Thesaurus;
}

/** Where a variant comes from. */
export interface Variant {
  readonly text: string;
  /** Number of the example it was made of. */
  readonly source: number;
  readonly operation: Operation;
  /** The how manieth variant of that example; with seed and source text it makes the variant again. */
  readonly n: number;
}

const TRIES = 6;

/** The operation of that name. @throws LearndError('invalid') */
export function operationNamed(name: string): Operation {
  const found = OPERATIONS.find(operation => operation === name);
  if (found === undefined) throw invalid('operations', `'${name}' is not one of ${OPERATIONS.join(', ')}`);
  return found;
}

/** Lower-case words of label names: `card_arrival` -> card, arrival. */
export const labelWords = (labels: readonly string[]): Set<string> =>
  new Set(labels.flatMap(label => [...(label.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? []), coreOf(label)]));

/**
 * The variants of each text, all different from it and from one another. Augmented text is still its author's: it belongs to
 * the same privacy unit, and under privacy enters training by `variantGroups`.
 */
export async function augment(texts: readonly string[], options: AugmentOptions): Promise<Variant[][]> {
  const { count = 4, alpha = 0.1, operations = OPERATIONS } = options;
  if (!Number.isInteger(count) || count < 1 || count > 100)
    throw invalid('count', `must be a whole number from 1 to 100, not ${count}`);
  if (!(alpha > 0 && alpha <= 1)) throw invalid('alpha', `must lie above 0 and at most at 1, not ${alpha}`);
  if (operations.length === 0) throw invalid('operations', `name some of ${OPERATIONS.join(', ')}`);
  const wordsOf = operations.some(operation => operation === 'synonym' || operation === 'insert');
  const thesaurus = options.thesaurus ?? (wordsOf ? openWordNet() : undefined);
  const fixed = labelWords(options.labels ?? []);
  const key = createHash('sha256').update(options.seed).digest();
  const groups: Variant[][] = [];
  for (const [source, text] of texts.entries()) {
    const seen = new Set([text]);
    const group: Variant[] = [];
    for (let n = 0; n < count; n++) {
      const operation = operations[n % operations.length]!;
      for (let attempt = 0; attempt < TRIES; attempt++) {
        // The text, not its place, is part of the key: a file in another order gives the same variants.
        const digest = createHash('sha256').update(text).digest('hex');
        const stream = streamFor(key, `augment ${operation} ${n} ${attempt} ${digest}`);
        const made = await applyOperation(operation, text, { stream, thesaurus, alpha, fixed });
        if (seen.has(made)) continue;
        seen.add(made);
        group.push({ text: made, source, operation, n });
        break;
      }
    }
    groups.push(group);
  }
  return groups;
}

/**
 * Each text with its variants, the text first. For private training: the gradients of one group are averaged, each with weight
 * 1 / group size, BEFORE they are clipped, so that an example has the influence of one however many variants it has. As
 * further rows the variants would multiply its sensitivity.
 */
export async function variantGroups(texts: readonly string[], options: AugmentOptions): Promise<string[][]> {
  const groups = await augment(texts, options);
  return texts.map((text, i) => [text, ...groups[i]!.map(variant => variant.text)]);
}
