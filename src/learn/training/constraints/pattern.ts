import { invalid } from '../../../base/errors.ts';

/**
 * Forms of text: a small part of regular expressions, all of whose texts have a bound on their length. Characters, `\d` `\w` `\s`,
 * escaped characters, `.`, classes as `[a-f0-9-]`, groups with `|`, and the quantifiers `?`, `{n}`, `{m,n}`. Case counts; letters are
 * ASCII's. Not `*`, `+`, `{n,}`, `^`, `$`, negated classes, back references: a text is held against the form from its beginning.
 */
export interface Pattern {
  readonly source: string;
  /** States in which no character has been read. */
  readonly start: States;
  /** What every text of the form begins with. */
  readonly literal: string;
  advance(states: States, char: string): States;
  /** A text has been read to its end: whatever comes after it does not matter. */
  done(states: States): boolean;
}

/** Sorted numbers of automaton states; none: no text of the form begins so. */
export type States = readonly number[];

type Node =
  | { readonly kind: 'chars'; readonly of: ReadonlySet<string> }
  | { readonly kind: 'all'; readonly of: readonly Node[] }
  | { readonly kind: 'any'; readonly of: readonly Node[] }
  | { readonly kind: 'times'; readonly of: Node; readonly least: number; readonly most: number };

const MOST_STATES = 512;
const MOST_SOURCE = 256;

const range = (from: string, to: string): string[] =>
  Array.from({ length: to.charCodeAt(0) - from.charCodeAt(0) + 1 }, (_, i) =>
    String.fromCharCode(from.charCodeAt(0) + i),
  );
const DIGITS = range('0', '9');
const CLASSES: Readonly<Record<string, readonly string[]>> = {
  d: DIGITS,
  w: [...DIGITS, ...range('a', 'z'), ...range('A', 'Z'), '_'],
  s: [' ', '\t', '\n'],
};
const PRINTABLE = range(' ', '~');

/** @throws LearndError('invalid') saying where the pattern leaves what is known */
export function parsePattern(source: string): Pattern {
  const wrong = (at: number, what: string): never => {
    throw invalid('pattern', `${JSON.stringify(source)} at character ${at + 1}: ${what}`);
  };
  const chars = [...source];
  if (chars.length === 0 || chars.length > MOST_SOURCE) wrong(0, `must have 1 to ${MOST_SOURCE} characters`);
  let at = 0;

  const alternatives = (): Node => {
    const of = [sequence()];
    while (chars[at] === '|') {
      at++;
      of.push(sequence());
    }
    return of.length === 1 ? of[0]! : { kind: 'any', of };
  };
  const sequence = (): Node => {
    const of: Node[] = [];
    while (at < chars.length && chars[at] !== '|' && chars[at] !== ')') of.push(quantified(item()));
    return { kind: 'all', of };
  };
  const item = (): Node => {
    const char = chars[at++]!;
    if (char === '(') {
      if (chars[at] === '?') {
        if (chars[at + 1] !== ':') wrong(at, 'only (…) and (?:…) are known groups');
        at += 2;
      }
      const inner = alternatives();
      if (chars[at++] !== ')') wrong(at - 1, 'a group is not closed');
      return inner;
    }
    if (char === '[') return characterClass();
    if (char === '.') return { kind: 'chars', of: new Set(PRINTABLE) };
    if (char === '\\') return { kind: 'chars', of: new Set(escaped()) };
    if ('*+?{}^$)]'.includes(char))
      return wrong(at - 1, `${char} has no meaning here; for the character itself write \\${char}`);
    return { kind: 'chars', of: new Set([char]) };
  };
  const escaped = (): readonly string[] => {
    const char = chars[at++];
    if (char === undefined) return wrong(at - 1, 'ends in a backslash');
    if (CLASSES[char] !== undefined) return CLASSES[char];
    if (/[A-Za-z0-9]/.test(char))
      return wrong(at - 1, `\\${char} is not known: there are \\d, \\w, \\s and escaped signs`);
    return [char];
  };
  const characterClass = (): Node => {
    const of = new Set<string>();
    if (chars[at] === '^') wrong(at, 'a negated class has no bounded set of characters here');
    for (;;) {
      const char = chars[at++];
      if (char === undefined) return wrong(at - 1, 'a class is not closed');
      if (char === ']') break;
      const single = char === '\\' ? escaped() : [char];
      if (single.length === 1 && chars[at] === '-' && chars[at + 1] !== ']' && chars[at + 1] !== undefined) {
        const next = chars[at + 1]!;
        at += 2;
        const to = next === '\\' ? escaped() : [next];
        if (to.length !== 1 || single[0]!.length !== 1 || to[0]!.length !== 1 || to[0]! < single[0]!)
          wrong(at - 1, 'a range must go up');
        for (const one of range(single[0]!, to[0]!)) of.add(one);
      } else for (const one of single) of.add(one);
    }
    if (of.size === 0) wrong(at - 1, 'a class is empty');
    return { kind: 'chars', of };
  };
  const quantified = (node: Node): Node => {
    const char = chars[at];
    if (char === '*' || char === '+') return wrong(at, `${char} has no end: write how often, as {1,12}`);
    if (char === '?') {
      at++;
      return { kind: 'times', of: node, least: 0, most: 1 };
    }
    if (char !== '{') return node;
    const [whole, least, comma, most] = /^\{(\d{1,3})(,(\d{1,3})?)?\}/.exec(chars.slice(at).join('')) ?? [];
    if (whole === undefined) return wrong(at, 'must be {n} or {m,n}');
    if (comma === ',') return wrong(at, '{n,} has no end: write how often at most');
    at += whole.length;
    const from = Number(least);
    const to = most === undefined ? from : Number(most);
    if (to < from || to === 0) wrong(at - 1, 'must be {m,n} with m not above n, and n above 0');
    return { kind: 'times', of: node, least: from, most: to };
  };

  const tree = alternatives();
  if (at < chars.length) wrong(at, 'a group is closed that was not opened');
  return automaton(source, tree, wrong);
}

/** Thompson's construction: every state has either characters to one other, or others it is as well. */
function automaton(source: string, tree: Node, wrong: (at: number, what: string) => never): Pattern {
  const edges: ({ readonly of: ReadonlySet<string>; readonly to: number } | undefined)[] = [];
  const also: number[][] = [];
  const state = (): number => {
    if (edges.length >= MOST_STATES) wrong(0, `has more than ${MOST_STATES} states: fewer or smaller repetitions`);
    edges.push(undefined);
    also.push([]);
    return edges.length - 1;
  };
  const build = (node: Node, from: number): number => {
    switch (node.kind) {
      case 'chars': {
        const to = state();
        const own = state();
        also[from]!.push(own);
        edges[own] = { of: node.of, to };
        return to;
      }
      case 'all':
        return node.of.reduce((place, next) => build(next, place), from);
      case 'any': {
        const end = state();
        for (const next of node.of) {
          const begin = state();
          also[from]!.push(begin);
          also[build(next, begin)]!.push(end);
        }
        return end;
      }
      case 'times': {
        const end = state();
        let place = from;
        for (let n = 0; n < node.most; n++) {
          if (n >= node.least) also[place]!.push(end);
          place = build(node.of, place);
        }
        also[place]!.push(end);
        return end;
      }
    }
  };
  const first = state();
  const last = build(tree, first);
  const closure = (of: Iterable<number>): States => {
    const seen = new Set<number>();
    const open = [...of];
    for (let next = open.pop(); next !== undefined; next = open.pop()) {
      if (seen.has(next)) continue;
      seen.add(next);
      open.push(...also[next]!);
    }
    return [...seen].sort((a, b) => a - b);
  };
  const advance = (states: States, char: string): States =>
    closure(states.flatMap(n => (edges[n]?.of.has(char) ? [edges[n]!.to] : [])));
  const done = (states: States): boolean => states.includes(last);
  const start = closure([first]);
  if (done(start)) wrong(0, 'matches a text without characters');
  let literal = '';
  for (let states = start; !done(states); ) {
    const next = new Set(states.flatMap(n => [...(edges[n]?.of ?? [])]));
    if (next.size !== 1) break;
    const [char] = next;
    literal += char;
    states = advance(states, char!);
  }
  return { source, start, literal, advance, done };
}
