import { invalid } from '../../../base/errors.ts';
import { BpeTokenizer, TOKEN } from './bpe.ts';
import { learnMerges, REFUSED, type Word } from './learn-merges.ts';
import { PRE, pieces } from './pretokenize.ts';

export interface GrownToken {
  readonly id: number;
  /** Its bytes as text, where they are whole characters. */
  readonly text: string;
  /** The ids the old tokenizer cut it into. */
  readonly pieces: readonly number[];
}

export interface GrownTokenizer {
  readonly tokenizer: BpeTokenizer;
  /** In order of their ids, which follow the old vocabulary's. */
  readonly added: readonly GrownToken[];
}

/**
 * Adds up to `add` tokens for what is frequent in `texts`: byte-pair merging goes on from where the tokenizer cuts the texts
 * now, and each merge is appended. No id moves, and no old merge loses its rank, so a text without the new words keeps its ids.
 * A pair must occur twice to be worth a token.
 */
export function growTokenizer(tokenizer: BpeTokenizer, texts: Iterable<string>, add: number): GrownTokenizer {
  const { spec, vocabSize } = tokenizer;
  if (!Number.isInteger(add) || add < 1 || vocabSize + add > 1 << 20) {
    throw invalid('add', `must be a whole number from 1 to ${(1 << 20) - vocabSize}, not ${add}`);
  }
  const tokens = [...spec.tokens];
  const ids = new Map<string, number>();
  for (let id = tokens.length - 1; id >= 0; id--) ids.set(tokens[id]!, id);
  const isPlain = (id: number): boolean => (spec.types[id] ?? TOKEN.normal) === TOKEN.normal;
  const merges = learnMerges(wordsOf(tokenizer, texts, isPlain), {
    wanted: add,
    next: vocabSize,
    minCount: 2,
    known: (left, right) => {
      const text = tokens[left]! + tokens[right]!;
      const id = ids.get(text);
      // Text that spells a special token must not become one.
      if (id !== undefined) return isPlain(id) ? id : REFUSED;
      ids.set(text, tokens.length);
      tokens.push(text);
      return undefined;
    },
  });
  const oldPieces = new Map<number, readonly number[]>();
  const cut = (id: number): readonly number[] => oldPieces.get(id) ?? [id];
  for (const { left, right, made } of merges)
    if (made >= vocabSize && !oldPieces.has(made)) oldPieces.set(made, [...cut(left), ...cut(right)]);
  const grown = new BpeTokenizer({
    ...spec,
    tokens,
    types: tokens.map((_, id) => spec.types[id] ?? TOKEN.normal),
    merges: [...spec.merges, ...merges.map(({ left, right }) => [tokens[left]!, tokens[right]!] as const)],
  });
  const added = tokens.slice(vocabSize).map((_, i) => {
    const id = vocabSize + i;
    return { id, text: grown.token(id), pieces: cut(id) };
  });
  return { tokenizer: grown, added };
}

/** The distinct pieces of the texts as the tokenizer cuts them, with their counts; special tokens part them. */
function wordsOf(tokenizer: BpeTokenizer, texts: Iterable<string>, isPlain: (id: number) => boolean): Word[] {
  const { pre } = tokenizer.spec;
  const counts = new Map<string, number>();
  for (const text of texts) {
    const normal = PRE[pre].nfc ? text.normalize('NFC') : text;
    for (const piece of pieces(pre, normal)) counts.set(piece, (counts.get(piece) ?? 0) + 1);
  }
  const words: Word[] = [];
  for (const [piece, count] of counts) {
    let symbols: number[] = [];
    for (const id of tokenizer.encode(piece)) {
      if (isPlain(id)) symbols.push(id);
      else {
        words.push({ symbols, count });
        symbols = [];
      }
    }
    words.push({ symbols, count });
  }
  return words.filter(word => word.symbols.length > 1);
}
