/**
 * The part of a document that perplexity is measured on: its first 2,048 characters (about 500 tokens). The monitor and the
 * evaluation of versions must cut alike: later tokens have more context and are easier, so a longer cut gives a lower figure.
 */
export const SCORED_CHARACTERS = 2_048;

export function scoredText(text: string): string {
  if (text.length <= SCORED_CHARACTERS) return text;
  const cut = text.slice(0, SCORED_CHARACTERS);
  // Not in the middle of a surrogate pair.
  return /[\uD800-\uDBFF]$/.test(cut) ? cut.slice(0, -1) : cut;
}
