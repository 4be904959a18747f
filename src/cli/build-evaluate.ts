import { statSync } from 'node:fs';
import { invalid } from '../base/errors.ts';
import { weightedF1 } from '../learn/metrics/f1.ts';
import type { Build } from './build-config.ts';
import { headF1 } from './build-head.ts';
import { run as answers } from './eval-answers.ts';
import { run as perplexity } from './eval-perplexity.ts';
import { run as speed } from './eval-speed.ts';
import { readTrainRows } from './train-data.ts';

/** What a stage's model can do, on the files that `evaluate` names. */
export interface StageEvaluation {
  readonly size_mb: number;
  readonly perplexity?: number;
  readonly bits_per_byte?: number;
  /** Of label scoring. */
  readonly weighted_f1?: number | null;
  /** Of a head trained on the model's features. */
  readonly head_f1?: number | null;
  readonly exact_match?: number | null;
  readonly rouge_l?: number | null;
  readonly response_ms_p50?: number | null;
  readonly response_ms_p95?: number | null;
  readonly tokens_per_second?: number | null;
  readonly error_rate?: number | null;
}

export async function evaluateModel(model: string, wanted: NonNullable<Build['evaluate']>): Promise<StageEvaluation> {
  const text = wanted.text === undefined ? undefined : await perplexity({ model, file: wanted.text });
  const f1 = wanted.labels && (await labelScoring(model, wanted.labels));
  const head = wanted.labels?.head === undefined ? undefined : await byHead(model, wanted.labels, wanted.labels.head);
  const said = wanted.answers && (await answers({ model, ...wanted.answers } as never));
  const timed = wanted.speed && (await speed({ model, ...wanted.speed } as never));
  return {
    size_mb: sizeMb(model),
    ...(text && { perplexity: text.perplexity, bits_per_byte: text.bits_per_byte }),
    ...(f1 !== undefined && { weighted_f1: f1 }),
    ...(head !== undefined && { head_f1: head }),
    ...(said && { exact_match: said.exact_match, rouge_l: said.rouge_l.f1 }),
    ...(timed && {
      response_ms_p50: timed.response_ms.p50,
      response_ms_p95: timed.response_ms.p95,
      tokens_per_second: timed.tokens_per_second.p50,
      error_rate: timed.error_rate,
    }),
  };
}

export const sizeMb = (file: string): number => Math.round(statSync(file).size / 1e4) / 100;

type Labels = NonNullable<NonNullable<Build['evaluate']>['labels']>;

/** Weighted F1 of a head that learns from another file's rows, whose columns have the same names. */
async function byHead(model: string, { file, text, label = 'label' }: Labels, head: string): Promise<number | null> {
  const [train, test] = [head, file].map(path =>
    readTrainRows(path, { text, label }).map(row => ({ text: row.text, label: row.label! })),
  );
  if (new Set(train!.map(row => row.label)).size < 2)
    throw invalid('evaluate.labels.head', `${head} has only one label; a head needs two or more`);
  return await headF1(model, { train: train!, test: test! });
}

/** Weighted F1 of the language model choosing among the file's labels, as it is served where a task has no head. */
async function labelScoring(model: string, { file, text, label = 'label' }: Labels): Promise<number | null> {
  const rows = readTrainRows(file, { text, label });
  const truth = rows.map(row => row.label!);
  const labels = [...new Set(truth)].sort();
  const { openGguf } = await import('../learn/llama/index.ts');
  const { LabelScorer } = await import('../learn/llama/label-scorer.ts');
  const loaded = await openGguf(model);
  const generator = await loaded.createGenerator({ contextSize: Math.min(2048, loaded.contextLength) });
  try {
    const found = await new LabelScorer(loaded, generator).classify(
      rows.map(row => row.text),
      labels,
    );
    const best = found.map(scores => labels[scores.indexOf(Math.max(...scores))]!);
    return weightedF1(truth, best).weighted;
  } finally {
    await generator.dispose();
    await loaded.dispose();
  }
}
