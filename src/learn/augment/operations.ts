import type { SecureStream } from '../privacy/index.ts';
import type { Thesaurus } from './thesaurus.ts';
import { coreOf, cutWords, joinWords, type Words, withCore } from './words.ts';

/** EDA's four (1901.11196; jasonwei20/eda_nlp) and AEDA's punctuation (2108.13230). */
export const OPERATIONS = ['synonym', 'insert', 'swap', 'delete', 'punctuation'] as const;
export type Operation = (typeof OPERATIONS)[number];

export interface OperationContext {
  readonly stream: SecureStream;
  readonly thesaurus: Thesaurus | undefined;
  /** Share of the words changed: n = max(1, alpha x words). */
  readonly alpha: number;
  /** Words (lower case) that are neither changed, moved, deleted nor brought in. */
  readonly fixed: ReadonlySet<string>;
}

/** Function words that WordNet lists as something else ("do" the note, "it" the trade): no synonym of them is one here. */
const FUNCTION_WORDS = new Set(
  'about after again also been before being below both cannot does doing down during each else from have having here into itself just more most much myself once only other over same should some such than that their them then there these they this those through under until very want were what when where which while whom will with would your'.split(
    ' ',
  ),
);
const MARKS = ['.', ';', '?', ':', '!', ','];

/** The text changed by one operation; the text itself where it offers nothing to change. */
export async function applyOperation(operation: Operation, text: string, context: OperationContext): Promise<string> {
  const cut = cutWords(text);
  if (cut.words.length === 0) return text;
  await CHANGE[operation](cut, context);
  return joinWords(cut);
}

const CHANGE: Record<Operation, (cut: Words, context: OperationContext) => void | Promise<void>> = {
  async synonym(cut, context) {
    let left = countOf(cut, context);
    for (const i of shuffled(cut.words.length, context.stream)) {
      if (left === 0) return;
      const word = await synonymOf(cut.words[i]!, context);
      if (word === undefined) continue;
      cut.words[i] = withCore(cut.words[i]!, word);
      left--;
    }
  },

  async insert(cut, context) {
    for (let n = countOf(cut, context); n > 0; n--) {
      for (const i of shuffled(cut.words.length, context.stream)) {
        const word = await synonymOf(cut.words[i]!, context);
        if (word === undefined) continue;
        insertAt(cut, context.stream.below(cut.words.length + 1), word);
        break;
      }
    }
  },

  swap(cut, context) {
    const free = [...cut.words.keys()].filter(i => !context.fixed.has(coreOf(cut.words[i]!)));
    if (free.length < 2) return;
    for (let n = countOf(cut, context); n > 0; n--) {
      const a = free[context.stream.below(free.length)]!;
      const others = free.filter(i => i !== a);
      const b = others[context.stream.below(others.length)]!;
      [cut.words[a], cut.words[b]] = [cut.words[b]!, cut.words[a]!];
    }
  },

  /** Each word with probability alpha; at least one stays. */
  delete(cut, { stream, alpha, fixed }) {
    const kept = [...cut.words.keys()].filter(i => fixed.has(coreOf(cut.words[i]!)) || stream.uniform() >= alpha);
    if (kept.length === 0) kept.push(stream.below(cut.words.length));
    const words = kept.map(i => cut.words[i]!);
    const gaps = kept.map(i => cut.gaps[i]!);
    cut.words.splice(0, Infinity, ...words);
    cut.gaps.splice(0, Infinity, ...gaps);
  },

  /** 1 to a third of the words as many marks, each before a word. */
  punctuation(cut, { stream }) {
    const most = Math.max(1, Math.floor(cut.words.length / 3));
    for (let n = 1 + stream.below(most); n > 0; n--) {
      insertAt(cut, stream.below(cut.words.length), MARKS[stream.below(MARKS.length)]!);
    }
  },
};

const countOf = (cut: Words, { alpha }: OperationContext): number => Math.max(1, Math.floor(alpha * cut.words.length));

async function synonymOf(word: string, { thesaurus, stream, fixed }: OperationContext): Promise<string | undefined> {
  const core = coreOf(word);
  if (core.length < 4 || FUNCTION_WORDS.has(core) || fixed.has(core)) return undefined;
  const found = ((await thesaurus?.synonyms(core)) ?? []).filter(w => !fixed.has(w));
  return found.length === 0 ? undefined : found[stream.below(found.length)];
}

function insertAt(cut: Words, place: number, word: string): void {
  cut.words.splice(place, 0, word);
  if (place > 0 && place === cut.gaps.length) {
    // Behind the last word: what followed that (a line's end) follows the new one.
    cut.gaps.splice(place - 1, 0, ' ');
  } else cut.gaps.splice(place, 0, ' ');
}

/** 0 to n - 1 in random order (Fisher and Yates). */
function shuffled(n: number, stream: SecureStream): number[] {
  const order = Array.from({ length: n }, (_, i) => i);
  for (let i = n - 1; i > 0; i--) {
    const j = stream.below(i + 1);
    [order[i], order[j]] = [order[j]!, order[i]!];
  }
  return order;
}
