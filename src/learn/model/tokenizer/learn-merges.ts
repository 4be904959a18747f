/** A distinct piece of the texts: its symbols now, and how often it occurs. */
export interface Word {
  symbols: number[];
  readonly count: number;
}

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

/** What `known` says of a pair that must not be merged. */
export const REFUSED = -1;

export interface LearnOptions {
  /** Tokens to make. */
  readonly wanted: number;
  /** Id of the first one. */
  readonly next: number;
  /** Place of an id among equally frequent pairs; default: the id. */
  readonly orderOf?: (id: number) => number;
  /** The token that a pair becomes where the vocabulary has it already: such a merge makes no new token. */
  readonly known?: (left: number, right: number) => number | undefined;
  /** Pairs that occur less often are not merged. Default 1. */
  readonly minCount?: number;
}

export interface Merge {
  readonly left: number;
  readonly right: number;
  readonly made: number;
}

/**
 * Merges the most frequent pair of neighbouring symbols, again and again, until enough tokens are made or no pair is left; the
 * words' symbols are changed. Only pairs whose words were touched are counted again.
 */
export function learnMerges(words: readonly Word[], options: LearnOptions): Merge[] {
  const { wanted, next, orderOf = id => id, known, minCount = 1 } = options;
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

  const merges: Merge[] = [];
  let tokens = 0;
  while (tokens < wanted) {
    const top = candidates.pop();
    if (top === undefined) break;
    const now = counts.get(top.pair)!;
    if (now < minCount) continue;
    if (now !== top.count) {
      offer(top.pair);
      continue;
    }
    const left = Math.floor(top.pair / PAIR);
    const right = top.pair - left * PAIR;
    const made = known?.(left, right) ?? next + tokens;
    if (made === REFUSED) {
      counts.set(top.pair, 0);
      continue;
    }
    if (made === next + tokens) tokens++;
    merges.push({ left, right, made });
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
        const after = symbols[i + 2];
        if (prev !== undefined) {
          add(prev, left, -count, index);
          add(prev, made, count, index, touched);
        }
        if (after !== undefined) {
          add(right, after, -count, index);
          add(made, after, count, index, touched);
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
