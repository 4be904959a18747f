import { type Document, isMap, isPair, isScalar, LineCounter, type Node, parseDocument, type Scalar } from 'yaml';

export interface Finding {
  readonly severity: 'error' | 'warning';
  /** From 1. */
  readonly line: number;
  readonly column: number;
  /** Dotted path of the key, list items by index: `rules.0.when`. */
  readonly path: string;
  readonly message: string;
}

export type Path = ReadonlyArray<string | number>;
type At = { line: number; column: number };

/** YAML text that can say where each of its keys, values and characters of a value stand. */
export class Source {
  readonly text: string;
  readonly document: Document;
  readonly #lines = new LineCounter();

  constructor(text: string) {
    this.text = text;
    this.document = parseDocument(text, { lineCounter: this.#lines, prettyErrors: false });
  }

  at(offset: number): At {
    const { line, col } = this.#lines.linePos(Math.min(Math.max(offset, 0), this.text.length));
    return { line: Math.max(1, line), column: Math.max(1, col) };
  }

  /** Position of the value at `path`; of the nearest parent that exists, where it does not. */
  value(path: Path): At {
    for (let depth = path.length; depth >= 0; depth--) {
      const node = (depth === 0 ? this.document.contents : this.document.getIn(path.slice(0, depth), true)) as
        | Node
        | undefined;
      const start = node?.range?.[0];
      if (start !== undefined) return this.at(start);
    }
    return { line: 1, column: 1 };
  }

  /** Position of the key `name` of the mapping at `path`. */
  key(path: Path, name: string): At {
    const map = path.length === 0 ? this.document.contents : this.document.getIn(path, true);
    if (isMap(map))
      for (const item of map.items)
        if (isPair(item) && isScalar(item.key) && String(item.key.value) === name && item.key.range)
          return this.at(item.key.range[0]);
    return this.value(path);
  }

  /** Position of character `index` of the string at `path`, whatever its quoting; of its start where it cannot be followed. */
  inside(path: Path, index: number): At {
    const node = this.document.getIn(path, true) as Node | undefined;
    if (!isScalar(node) || !node.range) return this.value(path);
    return this.at(this.#offset(node, index));
  }

  #offset(node: Scalar, index: number): number {
    const [start, end] = node.range!;
    const value = String(node.value);
    const block = node.type === 'BLOCK_LITERAL' || node.type === 'BLOCK_FOLDED';
    let at = start;
    if (block) at = this.text.indexOf('\n', start) + 1;
    else if (node.type === 'QUOTE_DOUBLE' || node.type === 'QUOTE_SINGLE') at = start + 1;
    // Walk value and source together: white space may have been folded, anything else must be the same character.
    const space = (c: string | undefined) => c === ' ' || c === '\n' || c === '\r' || c === '\t';
    for (let i = 0; i < Math.min(index, value.length); i++) {
      const c = value[i];
      if (space(c)) {
        if (space(this.text[at])) at++;
        continue;
      }
      while (at < end && space(this.text[at])) at++;
      if (node.type === 'QUOTE_SINGLE' && c === "'" && this.text.startsWith("''", at)) at++;
      else if (node.type === 'QUOTE_DOUBLE' && this.text[at] === '\\' && this.text[at + 1] === c) at++;
      if (this.text[at] !== c) return start;
      at++;
    }
    if (index < value.length && !space(value[index])) while (at < end && space(this.text[at])) at++;
    return Math.min(at, end);
  }

  /** What the YAML parser itself found wrong. */
  problems(): Finding[] {
    const found: Finding[] = [];
    for (const error of this.document.errors)
      found.push({
        severity: 'error',
        ...this.at(error.pos[0]),
        path: '',
        message: `not valid YAML: ${sentence(error.message)}`,
      });
    for (const warning of this.document.warnings)
      found.push({
        severity: 'error',
        ...this.at(warning.pos[0]),
        path: '',
        message:
          warning.code === 'TAG_RESOLVE_FAILED'
            ? 'YAML reads a leading "!" as a tag: put the expression in quotes'
            : sentence(warning.message),
      });
    return found;
  }
}

const sentence = (message: string): string => {
  const line = message.split('\n')[0]!.replace(/:$/, '');
  return line.charAt(0).toLowerCase() + line.slice(1);
};

/** The known name nearest to `name` by edit distance, where it is near enough to be meant. */
export function nearest(name: string, known: Iterable<string>): string | undefined {
  let best: string | undefined;
  let least = (name.length <= 4 ? 1 : Math.max(2, Math.floor(name.length / 4))) + 1;
  for (const candidate of known) {
    const distance = editDistance(name, candidate);
    if (distance < least) {
      least = distance;
      best = candidate;
    }
  }
  return best;
}

/** Levenshtein distance in which two neighbours swapped count as one edit (optimal string alignment). */
function editDistance(a: string, b: string): number {
  const rows: number[][] = [Array.from({ length: b.length + 1 }, (_, j) => j)];
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const cost = a[i - 1] === b[j - 1] ? 0 : 1;
      let d = Math.min(rows[i - 1]![j]! + 1, row[j - 1]! + 1, rows[i - 1]![j - 1]! + cost);
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) d = Math.min(d, rows[i - 2]![j - 2]! + 1);
      row.push(d);
    }
    rows.push(row);
  }
  return rows[a.length]![b.length]!;
}
