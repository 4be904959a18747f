import { weightedF1 } from '../../learn/metrics/f1.ts';
import { perplexity } from '../../learn/metrics/perplexity.ts';
import { scoredText } from '../../learn/metrics/scored-text.ts';
import type { Card, Subject, VersionFiles } from '../../learn/model/version.ts';
import type { ComputeWorker } from '../../learn/worker/client.ts';
import type { CallOptions } from '../../learn/worker/process.ts';
import type { TextScore } from '../../learn/worker/types.ts';

/** What a version is measured on: held-out users only, newest first. */
export interface Holdout {
  readonly documents: ReadonlyArray<{ readonly id: number; readonly text: string }>;
  readonly tasks: ReadonlyArray<{
    readonly name: string;
    readonly labels: readonly string[];
    readonly items: ReadonlyArray<{ readonly id: number; readonly text: string; readonly label: string }>;
  }>;
}

/** Results item by item, without texts: what seeds the monitor's detectors. */
export interface Items {
  readonly documents: ReadonlyArray<{ readonly id: number } & TextScore>;
  readonly labels: ReadonlyArray<{
    readonly id: number;
    readonly task: string;
    readonly truth: string;
    readonly predicted: string;
  }>;
}

export interface Measurement {
  readonly card: Card & {
    /** Without each document's first scored token: learning how texts start is cheap. */
    readonly perplexity_without_first: number | null;
    readonly bits_per_byte: number | null;
    readonly f1_by_task: Readonly<Record<string, number | null>>;
    /** Held-out rows behind the figures. */
    readonly measured_on: { readonly documents: number; readonly tokens: number; readonly labels: number };
  };
  readonly items: Items;
}

/** Tokens decoded for the speed figure. */
const SPEED_TOKENS = 64;

type Worker = Pick<ComputeWorker, 'call' | 'perplexity' | 'classify'>;

/**
 * Measures a version's card. `known`: a measurement of another version on the same holdout; what both have in common (the same
 * language model files, the same head) is taken from it instead of being computed again.
 */
export async function measure(
  worker: Worker,
  subject: Subject,
  holdout: Holdout,
  options: { call: CallOptions; known?: { subject: Subject; measurement: Measurement } },
): Promise<Measurement> {
  const { call, known } = options;
  const { files } = subject;
  const sameModel = known !== undefined && sameLanguageModel(files, known.subject.files);
  const documents = sameModel ? known.measurement.items.documents : await scoreDocuments(worker, files, holdout, call);
  const labels: Items['labels'][number][] = [];
  for (const task of holdout.tasks) {
    const head = files.heads[task.name];
    const before = known?.subject.files.heads[task.name];
    // Without a head the language model answers, so the same answers need the same one.
    const same = known !== undefined && (head ? head.file === before?.file : before === undefined && sameModel);
    if (same) labels.push(...known.measurement.items.labels.filter(item => item.task === task.name));
    else if (task.items.length > 0) {
      const texts = task.items.map(item => item.text);
      const answers = await worker.classify(files, task.name, task.labels, texts, call);
      for (const [i, { id, label }] of task.items.entries())
        labels.push({ id, task: task.name, truth: label, predicted: answers[i]!.label });
    }
  }
  const speed = sameModel
    ? known.measurement.card.tokens_per_second
    : (
        await worker.call(
          'speed',
          { files: { model: files.model, ...(files.adapter && { adapter: files.adapter }) }, tokens: SPEED_TOKENS },
          call,
        )
      ).tokensPerSecond;
  return { card: cardOf(subject, documents, labels, holdout, speed), items: { documents, labels } };
}

async function scoreDocuments(
  worker: Worker,
  files: Subject['files'],
  holdout: Holdout,
  call: CallOptions,
): Promise<Items['documents']> {
  if (holdout.documents.length === 0) return [];
  const texts = holdout.documents.map(({ text }) => scoredText(text));
  const scores = await worker.perplexity(files, texts, call);
  return holdout.documents.map(({ id }, i) => ({ id, ...scores[i]! }));
}

export const sameLanguageModel = (
  a: Pick<VersionFiles, 'model' | 'adapter' | 'logitBias'>,
  b: Pick<VersionFiles, 'model' | 'adapter' | 'logitBias'>,
): boolean =>
  a.model === b.model &&
  a.adapter?.path === b.adapter?.path &&
  a.adapter?.scale === b.adapter?.scale &&
  JSON.stringify(a.logitBias ?? []) === JSON.stringify(b.logitBias ?? []);

function cardOf(
  subject: Subject,
  documents: Items['documents'],
  labels: Items['labels'],
  holdout: Holdout,
  speed: number | null,
): Measurement['card'] {
  const whole = perplexity(documents);
  const rest = perplexity(
    documents.map(({ nll, tokens, bytes, first }) =>
      first === null ? { nll, tokens, bytes } : { nll: nll - first, tokens: tokens - 1, bytes },
    ),
  );
  const byTask: Record<string, number | null> = {};
  let sum = 0;
  for (const { name } of holdout.tasks) {
    const items = labels.filter(item => item.task === name);
    byTask[name] = weightedF1(
      items.map(item => item.truth),
      items.map(item => item.predicted),
    ).weighted;
    sum += (byTask[name] ?? 0) * items.length;
  }
  return {
    perplexity: whole.perplexity,
    perplexity_standard_error: whole.perplexityError,
    perplexity_without_first: rest.perplexity,
    bits_per_byte: whole.bitsPerByte,
    // Several tasks: the mean of their weighted F1, weighted by held-out rows.
    f1: labels.length === 0 ? null : sum / labels.length,
    f1_by_task: byTask,
    parameters: subject.parameters,
    size_mb: subject.bytes / 1e6,
    tokens_per_second: speed !== null && speed > 0 ? speed : null,
    measured_on: { documents: whole.texts, tokens: whole.tokens, labels: labels.length },
  };
}
