/**
 * ROUGE-L of one answer against a reference (Lin 2004): precision, recall and F1 of their longest common subsequence of words.
 * Words as google-research/rouge_score 0.1.2 cuts them without its stemmer: lower case, runs of a-z and 0-9.
 */
export interface Rouge {
  readonly precision: number;
  readonly recall: number;
  readonly f1: number;
}

export interface RougeOptions {
  /** Words of all scripts: runs of Unicode letters, marks and digits. The reference drops every character that is not ASCII. */
  readonly unicode?: boolean;
}

const NONE: Rouge = { precision: 0, recall: 0, f1: 0 };

export function rougeWords(text: string, options: RougeOptions = {}): string[] {
  const pattern = options.unicode ? /[\p{L}\p{M}\p{N}]+/gu : /[a-z0-9]+/g;
  return text.toLowerCase().match(pattern) ?? [];
}

export function rougeL(reference: string, answer: string, options: RougeOptions = {}): Rouge {
  const wanted = rougeWords(reference, options);
  const given = rougeWords(answer, options);
  if (wanted.length === 0 || given.length === 0) return NONE;
  const common = longestCommonSubsequence(wanted, given);
  const precision = common / given.length;
  const recall = common / wanted.length;
  return { precision, recall, f1: common === 0 ? 0 : (2 * precision * recall) / (precision + recall) };
}

/** Of several references the one with the best F1, as the reference's `score_multi`. */
export function bestRougeL(references: readonly string[], answer: string, options: RougeOptions = {}): Rouge {
  return references
    .map(reference => rougeL(reference, answer, options))
    .reduce((best, score) => (score.f1 > best.f1 ? score : best), NONE);
}

/** Length of the longest common subsequence; O(n m) time, O(m) memory. */
function longestCommonSubsequence(a: readonly string[], b: readonly string[]): number {
  let before = new Int32Array(b.length + 1);
  let now = new Int32Array(b.length + 1);
  for (const word of a) {
    for (let j = 0; j < b.length; j++) now[j + 1] = word === b[j] ? before[j]! + 1 : Math.max(now[j]!, before[j + 1]!);
    [before, now] = [now, before];
  }
  return before[b.length]!;
}
