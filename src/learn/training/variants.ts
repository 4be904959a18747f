import type { Operation, Thesaurus } from '../augment/index.ts';
import { augment, OPERATIONS, openWordNet, variantGroups } from '../augment/index.ts';
import { MOST_EXAMPLES } from './head.ts';
import type { FeedbackRow } from './objectives/feedback.ts';

/** How variants of private texts come to be in a training: by this seed and the text alone, so that nobody's depend on another's. */
export interface Variation {
  /** Sealed with the training's: a retry sees the same variants. */
  readonly seed: string;
  /** Variants of each example; fewer where a text offers no more different ones. */
  readonly count: number;
}

/**
 * Text that is itself learned is varied by synonyms alone: words swapped, deleted or put in, and marks anywhere, would be learned as the
 * way to write.
 */
const LEARNED_TEXT: readonly Operation[] = ['synonym'];

const CHUNK = 64;

/** Variants of each text, without it. `learned`: the text itself is what is to be predicted. */
async function variantsOf(
  texts: readonly string[],
  { seed, count }: Variation,
  { operations = OPERATIONS, labels, breathe }: Manner,
): Promise<string[][]> {
  const thesaurus: Thesaurus = openWordNet();
  const found: string[][] = [];
  for (let at = 0; at < texts.length; at += CHUNK) {
    await breathe?.();
    const groups = await augment(texts.slice(at, at + CHUNK), {
      ...{ seed, count, operations, thesaurus },
      ...(labels && { labels }),
    });
    found.push(...groups.map(group => group.map(({ text }) => text)));
  }
  return found;
}

interface Manner {
  readonly operations?: readonly Operation[];
  readonly labels?: readonly string[];
  /** Awaited now and then. */
  readonly breathe?: () => Promise<void> | void;
}

/** Other wordings of documents, which are learned as text. */
export const documentVariants = (
  texts: readonly string[],
  variation: Variation,
  breathe?: Manner['breathe'],
): Promise<string[][]> => variantsOf(texts, variation, { operations: LEARNED_TEXT, ...(breathe && { breathe }) });

/**
 * Rows with variants of what was asked, under the label or answer they have: of a labelled text, no word of a label touched or brought in;
 * of the last thing that the user said before a correction, no word of the right answer, which stays as it is. A judgement of an
 * answer (preference, rating) is of the answer to that very prompt: those rows stay as they are.
 */
export async function rowVariants(
  rows: readonly FeedbackRow[],
  variation: Variation,
  { labels, breathe }: Pick<Manner, 'labels' | 'breathe'> = {},
): Promise<FeedbackRow[]> {
  const varied: FeedbackRow[] = [];
  const manner = breathe === undefined ? {} : { breathe };
  const texts = rows.flatMap(row => (row.kind === 'label' ? [row.text] : []));
  const ofTexts = (await variantsOf(texts, variation, { ...manner, labels: labels ?? [] })).values();
  for (const row of rows) {
    if (row.kind === 'label') varied.push({ ...row, variants: ofTexts.next().value! });
    else if (row.kind === 'correction') {
      const asked = lastAsked(row.messages);
      const found =
        asked === undefined
          ? []
          : (await variantsOf([row.messages[asked]!.content], variation, { ...manner, labels: [row.ideal] }))[0]!;
      varied.push({ ...row, variants: found });
    } else varied.push(row);
  }
  return varied;
}

/** Place of the last message of the user. */
export const lastAsked = (messages: readonly { role: string }[]): number | undefined => {
  const at = messages.findLastIndex(({ role }) => role === 'user');
  return at < 0 ? undefined : at;
};

/**
 * Of a head: examples with variants of their texts, in the same unit and as many for each: a unit's gradient, the mean over its examples, is
 * then the mean over each one's variants before it is clipped, and no example gains influence. How many follows from the unit's own number
 * of examples alone: were it the busiest unit's, that one would change what all others give.
 */
export async function withVariants<T extends { readonly unit: string; readonly text: string }>(
  examples: readonly T[],
  { seed, count: most }: Variation,
  labels: readonly string[],
): Promise<readonly T[]> {
  const sizes = new Map<string, number>();
  for (const { unit } of examples) sizes.set(unit, (sizes.get(unit) ?? 0) + 1);
  const groups = await variantGroups(
    examples.map(example => example.text),
    { seed, count: most, labels },
  );
  return examples.flatMap((example, i) => {
    // No example of a unit may fall out of those that count.
    const room = Math.floor(MOST_EXAMPLES / sizes.get(example.unit)!) - 1;
    const count = Math.max(0, Math.min(most, room));
    return Array.from({ length: count + 1 }, (_, n) => ({ ...example, text: groups[i]![n % groups[i]!.length]! }));
  });
}
