import { writeFileSync } from 'node:fs';
import { invalid } from '../base/errors.ts';
import { type Mean, scoreAnswers } from '../learn/metrics/answers.ts';
import { type AnswererOptions, askTimed, openAnswerer } from './answerer.ts';
import { jsonRows } from './json-rows.ts';

export interface AnswersReport {
  readonly items: number;
  readonly exact_match: number;
  readonly exact_match_error: number | null;
  /** After SQuAD's normalisation: case, punctuation, articles. */
  readonly normalized_match: number;
  readonly rouge_l: {
    readonly precision: number;
    readonly recall: number;
    readonly f1: number;
    readonly f1_error: number | null;
  };
  /** Of answers asked for in this run. */
  readonly error_rate?: number;
}

export interface AnswersOptions extends AnswererOptions {
  readonly file: string;
  readonly tokens?: number;
  readonly unicode?: boolean;
  /** Where the answers are written, JSONL. */
  readonly save?: string;
}

interface Item {
  readonly prompt: string | undefined;
  readonly references: readonly string[];
  readonly answer: string | undefined;
}

function itemsOf(file: string): Item[] {
  return jsonRows(file).map(({ row, at }) => {
    const references = [row.reference ?? row.ideal].flat();
    if (!references.every(r => typeof r === 'string') || references.length === 0) {
      throw invalid('reference', `${at} has no text (or list of texts) under "reference"`);
    }
    const text = (key: string): string | undefined => (typeof row[key] === 'string' ? (row[key] as string) : undefined);
    return { prompt: text('prompt'), references: references as string[], answer: text('answer') };
  });
}

/**
 * Scores answers against references. Rows {"prompt"?, "reference": text or list, "answer"?}: answers that stand in the file
 * are scored as they are; with a model or a daemon every prompt is asked, greedily.
 */
export async function run(options: AnswersOptions): Promise<AnswersReport> {
  const items = itemsOf(options.file);
  const asks = options.model !== undefined || options.data !== undefined;
  const key = asks ? 'prompt' : 'answer';
  const missing = items.findIndex(item => item[key] === undefined);
  if (missing >= 0) {
    throw invalid(key, `${options.file}, row ${missing + 1} has no text under "${key}"`, {
      ...(!asks && { hint: 'Name a --model or the --data of a daemon to have the prompts answered.' }),
    });
  }
  const answers = items.map(item => item.answer ?? '');
  let errors = 0;
  if (asks) {
    const answerer = await openAnswerer(options);
    try {
      for (const [i, item] of items.entries()) {
        const { text, timed } = await askTimed(answerer, item.prompt!, options.tokens ?? 128);
        answers[i] = text;
        if (!timed.ok) {
          errors++;
          process.stderr.write(`row ${i + 1}: ${timed.error}\n`);
        }
        if ((i + 1) % 20 === 0) process.stderr.write(`answered ${i + 1} of ${items.length}\n`);
      }
    } finally {
      await answerer.close();
    }
  }
  if (options.save !== undefined) {
    const rows = items.map((item, i) =>
      JSON.stringify({ prompt: item.prompt, reference: item.references, answer: answers[i] }),
    );
    writeFileSync(options.save, `${rows.join('\n')}\n`);
  }
  const scores = scoreAnswers(
    items.map((item, i) => ({ references: item.references, answer: answers[i]! })),
    { ...(options.unicode && { unicode: true }) },
  );
  return {
    items: scores.items,
    exact_match: scores.exactMatch.mean,
    exact_match_error: scores.exactMatch.error,
    normalized_match: scores.normalizedMatch.mean,
    rouge_l: {
      precision: scores.rougeL.precision,
      recall: scores.rougeL.recall,
      f1: scores.rougeL.f1.mean,
      f1_error: scores.rougeL.f1.error,
    },
    ...(asks && { error_rate: errors / items.length }),
  };
}

const within = ({ mean, error }: Mean): string => `${mean.toFixed(4)}${error === null ? '' : ` ± ${error.toFixed(4)}`}`;

export const human = (r: AnswersReport): string =>
  [
    `exact match ${within({ mean: r.exact_match, error: r.exact_match_error })} over ${r.items} answers`,
    `normalized match ${r.normalized_match.toFixed(4)}`,
    `ROUGE-L F1 ${within({ mean: r.rouge_l.f1, error: r.rouge_l.f1_error })}`,
    ...(r.error_rate === undefined ? [] : [`error rate ${r.error_rate.toFixed(4)}`]),
  ].join('\n');
