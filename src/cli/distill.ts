import { existsSync, rmSync, statSync } from 'node:fs';
import { resolve } from 'node:path';
import { invalid, LearndError } from '../base/errors.ts';
import { readLoraGguf } from '../learn/model/lora.ts';
import { openModel } from '../learn/model/open.ts';
import { PUBLIC_SENTENCES } from '../learn/training/public-text.ts';
import { type DocumentKind, readDocuments } from './documents.ts';
import { prune } from './model.ts';
import { modelPath } from './model-path.ts';
import { ensureNative } from './native.ts';
import { interrupts, progressLines } from './train-progress.ts';

export interface DistillOptions {
  readonly teacher: string;
  /** LoRA GGUF on the teacher. */
  readonly adapter?: string;
  readonly student?: string;
  /** Without a student: the teacher pruned to this width, by so many layers. */
  readonly ffn?: number;
  readonly dropLayers?: number;
  /** Public text; default: the sentences that come with learnd. */
  readonly file?: readonly string[];
  readonly documents?: DocumentKind;
  readonly temperature?: number;
  readonly topK?: number;
  readonly labels?: number;
  /** Share of batches that the student writes itself; `beta` of the divergence (default 0.5). */
  readonly onPolicy?: number;
  readonly beta?: number;
  readonly tokens?: number;
  readonly steps?: number;
  readonly batch?: number;
  readonly sequence?: number;
  readonly rate?: number;
  readonly minutes?: number;
  readonly threads?: number;
  readonly out: string;
  /** Go on where the run that writes the same file was interrupted. */
  readonly resume?: boolean;
}

export interface DistilledFile {
  readonly out: string;
  readonly sha256: string;
  readonly size_mb: number;
  readonly parameters: number;
  readonly steps: number;
  /** Nats a token from the teacher (with labels: their own loss in its share). */
  readonly loss: readonly (number | null)[];
  readonly tokens: number;
  readonly tokens_per_second: number;
  readonly notes: readonly string[];
}

/** `learnd model distill`: a smaller student learns on public text what the teacher would say. */
export async function run(options: DistillOptions): Promise<DistilledFile> {
  const out = resolve(options.out);
  const { ffn, dropLayers, student, resume = false } = options;
  for (const name of ['steps', 'batch', 'topK', 'tokens'] as const) {
    const value = options[name];
    if (value !== undefined && (!Number.isInteger(value) || value < 1))
      throw invalid(name, `${name} must be a whole number of at least 1, not ${value}`);
  }
  const pruned = ffn !== undefined || dropLayers !== undefined;
  if ((student === undefined) === !pruned)
    throw invalid('student', 'name a --student, or what to prune of the teacher (--ffn, --drop-layers)');
  if (options.onPolicy === undefined && (options.beta !== undefined || options.tokens !== undefined))
    throw invalid('onPolicy', '--beta and --tokens belong to --on-policy');
  const texts =
    options.file === undefined ? PUBLIC_SENTENCES : readDocuments(options.file, options.documents ?? 'line');
  const state = `${out}.checkpoint`;
  if (existsSync(state) && !resume)
    throw new LearndError('conflict', `${state} is there: a distillation into ${out} has not ended`, {
      field: 'out',
      hint: 'Go on with it by --resume, or remove the file.',
      retriable: false,
    });
  const teacher = resolve(await modelPath(options.teacher));
  const start = `${out}.pruned`;
  const begun = student ?? start;
  if (student === undefined && !(resume && existsSync(start)))
    await prune({
      ...{ model: teacher, out: start },
      ...(ffn !== undefined && { ffn }),
      ...(dropLayers !== undefined && { dropLayers }),
    });
  if (options.adapter !== undefined) readLoraGguf(options.adapter, (await openModel(teacher)).config);
  ensureNative();
  const { distillModels } = await import('../learn/worker/jobs/distill.ts');
  const stop = interrupts('stopping here; Ctrl-C once more ends at once');
  const maxSeconds = options.minutes === undefined ? undefined : options.minutes * 60;
  const say = progressLines(maxSeconds === undefined ? {} : { maxSeconds });
  try {
    const { temperature, topK, labels, steps, batch, sequence, rate, onPolicy, beta = 0.5, tokens } = options;
    const {
      training,
      written,
      parts,
      tokens: read,
    } = await distillModels(
      {
        teacher: {
          model: teacher,
          ...(options.adapter !== undefined && { adapter: { path: resolve(options.adapter), scale: 1 } }),
        },
        student: { model: resolve(await modelPath(begun)) },
        texts,
        ...{ threads: options.threads ?? 2, out },
        ...(temperature !== undefined && { temperature }),
        ...(topK !== undefined && { topK }),
        ...(labels !== undefined && { labels }),
        ...(steps !== undefined && { steps }),
        ...(batch !== undefined && { batch }),
        ...(sequence !== undefined && { sequence }),
        ...(rate !== undefined && { rate }),
        ...(maxSeconds !== undefined && { maxSeconds }),
        ...(onPolicy !== undefined && {
          onPolicy: { share: onPolicy, beta, ...(tokens !== undefined && { tokens }) },
        }),
      },
      {
        signal: stop.signal,
        onTeacher: async (done, total) => {
          await new Promise(next => setImmediate(next));
          if (stop.signal.aborted) throw new LearndError('canceled', 'while the teacher was asked');
          if (done === total || done % 64 === 0) process.stderr.write(`teacher: ${done} of ${total} sequences\n`);
        },
        onStep: say,
        checkpoint: { path: state, losses: true },
      },
    );
    rmSync(state, { force: true });
    rmSync(start, { force: true });
    const { parametersOf } = await import('../learn/worker/jobs/model-file.ts');
    return {
      out,
      sha256: written.sha256,
      size_mb: Math.round(statSync(out).size / 1e4) / 100,
      parameters: parametersOf(parts.weights),
      steps: training.steps,
      loss: training.losses.map(loss => loss ?? null),
      tokens: read,
      tokens_per_second: training.tokensPerSecond,
      notes: [
        ...written.notes,
        'on public text: what the teacher says there is post-processing, and spends no privacy of its training data',
      ],
    };
  } catch (thrown) {
    if (!stop.signal.aborted || !existsSync(state)) throw thrown;
    throw new LearndError('canceled', `interrupted: ${(thrown as Error).message}`, {
      hint: 'Go on with the same command and --resume.',
      cause: thrown,
    });
  } finally {
    stop.end();
  }
}

export const human = (r: DistilledFile): string => {
  const [first, last] = [r.loss[0], r.loss.at(-1)];
  return `${r.out}: ${r.parameters} parameters, ${r.steps} steps, ${first?.toFixed(3) ?? '-'} to ${last?.toFixed(3) ?? '-'} nats a token from the teacher`;
};
