import { createRequire } from 'node:module';
import { LearndError } from '../../base/errors.ts';

export interface Thesaurus {
  /** Single lower-case words of like meaning, the word itself left out, in a fixed order. Empty for a word it does not know. */
  synonyms(word: string): Promise<readonly string[]>;
}

/** What learnd uses of the package `wordnet` (Princeton WordNet's files and their reader). */
interface WordNet {
  init(): Promise<void>;
  lookup(word: string, skipPointers: boolean): Promise<{ meta: { words: { word: string }[] } }[]>;
}

let opened: Promise<Thesaurus> | undefined;

/**
 * English synonyms from Princeton WordNet: of each part of speech the most frequent sense, base forms only ("card", not
 * "cards"). Loading reads the 6 MB of its index once a process.
 */
export function openWordNet(): Promise<Thesaurus> {
  opened ??= load();
  return opened;
}

async function load(): Promise<Thesaurus> {
  let wordnet: WordNet;
  try {
    wordnet = createRequire(import.meta.url)('wordnet') as WordNet;
    await wordnet.init();
  } catch (cause) {
    throw new LearndError('dependency', `the thesaurus cannot be opened: ${(cause as Error).message}`, {
      hint: 'Run npm ci: the package wordnet is missing or damaged.',
      retriable: false,
      cause,
    });
  }
  const known = new Map<string, readonly string[]>();
  return {
    async synonyms(word) {
      const key = word.toLowerCase();
      const found = known.get(key);
      if (found !== undefined) return found;
      const list = /^[a-z]+$/.test(key) ? await lookUp(wordnet, key) : [];
      known.set(key, list);
      return list;
    },
  };
}

async function lookUp(wordnet: WordNet, word: string): Promise<string[]> {
  let senses: Awaited<ReturnType<WordNet['lookup']>>;
  try {
    senses = await wordnet.lookup(word, true);
  } catch (error) {
    // The package rejects for a word it does not have; anything else is a fault of its files.
    if (/^No definition/.test((error as Error).message)) return [];
    throw error;
  }
  // Adjectives carry their syntax in brackets, several words an underscore, names a capital.
  const words = senses.flatMap(({ meta }) => meta.words.map(entry => entry.word.replace(/\([a-z]+\)$/, '')));
  return [...new Set(words)].filter(w => /^[a-z]{2,}$/.test(w) && w !== word);
}
