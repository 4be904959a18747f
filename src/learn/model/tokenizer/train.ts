import { invalid } from '../../../base/errors.ts';
import { BpeTokenizer, TOKEN } from './bpe.ts';
import { BYTE_TO_CHAR } from './byte-alphabet.ts';
import { type PreName, pieces } from './pretokenize.ts';

const encoder = new TextEncoder();

/** A distinct piece of the texts: its symbols now, and how often it occurs. */
interface Word {
  symbols: number[];
  readonly count: number;
}

/**
 * Learns a byte-level BPE vocabulary: ids 0 to 255 are the bytes by value, then one id a merge, then `specials` (control
 * tokens; the first begins a text, the second ends one; one alone does both). At each step the most frequent pair is merged;
 * equally frequent ones in the order of Hugging Face's BpeTrainer (its byte alphabet's order, then age). Ends early when no
 * pair is left, so `vocabSize` of the result may be smaller.
 * Sources: Sennrich et al., 1508.07909; karpathy/minbpe for the ids.
 */
export function trainBpe(
  texts: Iterable<string>,
  vocabSize: number,
  specials: readonly string[] = [],
  options: { pre?: PreName } = {},
): BpeTokenizer {
  if (!Number.isInteger(vocabSize) || vocabSize < 256 + specials.length || vocabSize > 1 << 20) {
    throw invalid('vocab', `must be between ${256 + specials.length} (the bytes and special tokens) and ${1 << 20}`);
  }
  const pre = options.pre ?? 'smollm';
  const merged = learnMerges(countWords(texts, pre), vocabSize - 256 - specials.length);
  const tokens = [...BYTE_TO_CHAR];
  const merges: Array<readonly [string, string]> = [];
  for (const [left, right] of merged) {
    merges.push([tokens[left]!, tokens[right]!]);
    tokens.push(tokens[left]! + tokens[right]!);
  }
  const types = new Array<number>(tokens.length).fill(TOKEN.normal);
  const first = specials.length > 0 ? tokens.length : undefined;
  for (const special of specials) {
    tokens.push(special);
    types.push(TOKEN.control);
  }
  const eosId = first === undefined ? undefined : first + Math.min(1, specials.length - 1);
  return new BpeTokenizer({ tokens, types, merges, pre, bosId: first, eosId, padId: eosId });
}

function countWords(texts: Iterable<string>, pre: PreName): Word[] {
  const counts = new Map<string, number>();
  for (const text of texts) for (const piece of pieces(pre, text)) counts.set(piece, (counts.get(piece) ?? 0) + 1);
  return [...counts].map(([piece, count]) => ({ symbols: [...encoder.encode(piece)], count }));
}

/** Byte -> its place among the alphabet's characters, which breaks ties. */
const ORDER: Int32Array = (() => {
  const order = new Int32Array(256);
  const sorted = [...BYTE_TO_CHAR.keys()].sort((a, b) => (BYTE_TO_CHAR[a]! < BYTE_TO_CHAR[b]! ? -1 : 1));
  for (const [place, byte] of sorted.entries()) order[byte] = place;
  return order;
})();
const orderOf = (id: number): number => (id < 256 ? ORDER[id]! : id);

const PAIR = 1 << 20;

interface Candidate {
  readonly pair: number;
  readonly count: number;
  /** Ties: smaller first. */
  readonly order: number;
}

const before = (a: Candidate, b: Candidate): boolean => a.count > b.count || (a.count === b.count && a.order < b.order);

/** A max-heap of candidates; counts change after the push, so what comes out is checked against the current count. */
class Candidates {
  readonly #items: Candidate[] = [];

  push(item: Candidate): void {
    const items = this.#items;
    let i = items.length;
    items.push(item);
    while (i > 0) {
      const parent = (i - 1) >> 1;
      if (!before(item, items[parent]!)) break;
      items[i] = items[parent]!;
      i = parent;
    }
    items[i] = item;
  }

  pop(): Candidate | undefined {
    const items = this.#items;
    const top = items[0];
    const last = items.pop();
    if (top === undefined || last === undefined || items.length === 0) return top;
    let i = 0;
    for (;;) {
      let child = 2 * i + 1;
      if (child >= items.length) break;
      if (child + 1 < items.length && before(items[child + 1]!, items[child]!)) child++;
      if (!before(items[child]!, last)) break;
      items[i] = items[child]!;
      i = child;
    }
    items[i] = last;
    return top;
  }
}

function learnMerges(words: readonly Word[], wanted: number): Array<[number, number]> {
  const counts = new Map<number, number>();
  const where = new Map<number, Set<number>>();
  const candidates = new Candidates();
  const add = (left: number, right: number, count: number, word: number, touched?: Set<number>): void => {
    const pair = left * PAIR + right;
    counts.set(pair, (counts.get(pair) ?? 0) + count);
    if (count > 0) {
      const places = where.get(pair);
      if (places) places.add(word);
      else where.set(pair, new Set([word]));
      touched?.add(pair);
    }
  };
  const offer = (pair: number): void => {
    const left = Math.floor(pair / PAIR);
    const order = orderOf(left) * PAIR + orderOf(pair - left * PAIR);
    candidates.push({ pair, count: counts.get(pair)!, order });
  };
  for (const [index, { symbols, count }] of words.entries()) {
    for (let i = 0; i + 1 < symbols.length; i++) add(symbols[i]!, symbols[i + 1]!, count, index);
  }
  for (const pair of counts.keys()) offer(pair);

  const merges: Array<[number, number]> = [];
  while (merges.length < wanted) {
    const top = candidates.pop();
    if (top === undefined) break;
    const now = counts.get(top.pair)!;
    if (now < 1) continue;
    if (now !== top.count) {
      offer(top.pair);
      continue;
    }
    const left = Math.floor(top.pair / PAIR);
    const right = top.pair - left * PAIR;
    const made = 256 + merges.length;
    merges.push([left, right]);
    const touched = new Set<number>();
    for (const index of where.get(top.pair)!) {
      const word = words[index]!;
      const { symbols, count } = word;
      const out: number[] = [];
      for (let i = 0; i < symbols.length; i++) {
        if (symbols[i] !== left || i + 1 >= symbols.length || symbols[i + 1] !== right) {
          out.push(symbols[i]!);
          continue;
        }
        const prev = out.at(-1);
        const next = symbols[i + 2];
        if (prev !== undefined) {
          add(prev, left, -count, index);
          add(prev, made, count, index, touched);
        }
        if (next !== undefined) {
          add(right, next, -count, index);
          add(made, next, count, index, touched);
        }
        out.push(made);
        i++;
      }
      word.symbols = out;
    }
    counts.set(top.pair, 0);
    where.delete(top.pair);
    for (const pair of touched) if (counts.get(pair)! > 0) offer(pair);
  }
  return merges;
}
