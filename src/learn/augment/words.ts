/** A text as words and the white space after each, so that what is not changed stays to the character. */
export interface Words {
  readonly lead: string;
  readonly words: string[];
  /** gaps[i] follows words[i]. */
  readonly gaps: string[];
}

export function cutWords(text: string): Words {
  const words: string[] = [];
  const gaps: string[] = [];
  const lead = /^\s*/.exec(text)![0];
  for (const match of text.slice(lead.length).matchAll(/(\S+)(\s*)/g)) {
    words.push(match[1]!);
    gaps.push(match[2]!);
  }
  return { lead, words, gaps };
}

export const joinWords = ({ lead, words, gaps }: Words): string =>
  lead + words.map((word, i) => (i + 1 < words.length && gaps[i] === '' ? `${word} ` : word + gaps[i]!)).join('');

/** The letters of a word without the punctuation around it, lower case: `"Card's,` -> `card's`. */
export const coreOf = (word: string): string => /[\p{L}\p{N}](?:.*[\p{L}\p{N}])?/u.exec(word)?.[0].toLowerCase() ?? '';

/** `replacement` in place of the word's core, in the word's own capitals. */
export function withCore(word: string, replacement: string): string {
  const match = /[\p{L}\p{N}](?:.*[\p{L}\p{N}])?/u.exec(word);
  if (match === null) return word;
  const core = match[0];
  const cased =
    core.length > 1 && core === core.toUpperCase() && core !== core.toLowerCase()
      ? replacement.toUpperCase()
      : /^\p{Lu}/u.test(core)
        ? replacement[0]!.toUpperCase() + replacement.slice(1)
        : replacement;
  return word.slice(0, match.index) + cased + word.slice(match.index + core.length);
}
