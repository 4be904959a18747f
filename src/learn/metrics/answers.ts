/** How good answers are: exact match, the same after SQuAD's normalisation, and ROUGE-L; means with their standard errors. */
import { invalid } from '../../base/errors.ts';
import { bestRougeL, type RougeOptions } from './rouge.ts';

export interface Answered {
  readonly references: readonly string[];
  readonly answer: string;
}

export interface Mean {
  readonly mean: number;
  /** Standard error over the items; null below two. */
  readonly error: number | null;
}

export interface AnswerScores {
  readonly items: number;
  /** The answer, trimmed, is one of the references. */
  readonly exactMatch: Mean;
  readonly normalizedMatch: Mean;
  readonly rougeL: { readonly precision: number; readonly recall: number; readonly f1: Mean };
}

/**
 * Lower case without ASCII punctuation, English articles and runs of space: SQuAD 1.1's evaluation script. White space is
 * Unicode's, as Python's `split` takes it.
 */
export function normalizeAnswer(text: string): string {
  return text
    .toLowerCase()
    .replace(/[!-/:-@[-`{-~]/g, '')
    .replace(/(?<![\p{L}\p{N}_])(?:a|an|the)(?![\p{L}\p{N}_])/gu, ' ')
    .split(/\p{White_Space}+/u)
    .filter(word => word !== '')
    .join(' ');
}

export function scoreAnswers(items: readonly Answered[], options: RougeOptions = {}): AnswerScores {
  if (items.length === 0) throw invalid('file', 'there is no answer to score');
  const rouge = items.map(({ references, answer }) => bestRougeL(references, answer, options));
  const match = (same: (reference: string, answer: string) => boolean): Mean =>
    meanOf(items.map(({ references, answer }) => (references.some(r => same(r, answer)) ? 1 : 0)));
  return {
    items: items.length,
    exactMatch: match((reference, answer) => reference.trim() === answer.trim()),
    normalizedMatch: match((reference, answer) => normalizeAnswer(reference) === normalizeAnswer(answer)),
    rougeL: {
      precision: meanOf(rouge.map(r => r.precision)).mean,
      recall: meanOf(rouge.map(r => r.recall)).mean,
      f1: meanOf(rouge.map(r => r.f1)),
    },
  };
}

export function meanOf(values: readonly number[]): Mean {
  const n = values.length;
  const mean = values.reduce((a, b) => a + b, 0) / n;
  if (n < 2) return { mean, error: null };
  const variance = values.reduce((a, b) => a + (b - mean) ** 2, 0) / (n - 1);
  return { mean, error: Math.sqrt(variance / n) };
}
