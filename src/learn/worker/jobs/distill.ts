import { createHash } from 'node:crypto';
import { separatorOf } from '../../build/vocabulary.ts';
import { cacheTargets, checkPair, type DistillRequest, distill, distillExamples } from '../../compress/distill.ts';
import type { Teacher } from '../../compress/distill-head.ts';
import { EditedWeights, type ExportedGguf, type ModelParts, writeModelGguf } from '../../model/export.ts';
import { openModel } from '../../model/open.ts';
import type { CheckpointSettings } from '../../training/checkpoint.ts';
import { checkMemory, memoryNeed } from '../../training/memory.ts';
import type { TrainProgress, TrainResult } from '../../training/trainer.ts';
import { denseBias } from '../../training/vocabulary-bias.ts';
import type { JobContext } from '../serve.ts';
import type { DistillInput, Jobs, ModelFiles } from '../types.ts';
import { forget, load } from './loaded.ts';
import { modelResult, partsOf, typeAfterMerge } from './model-file.ts';

const SEQUENCE = 128;
const BATCH = 8;

/** What runs around the steps: said, stopped, kept. */
export interface DistillHooks {
  readonly signal?: AbortSignal;
  onTeacher(done: number, total: number): void | Promise<void>;
  onStep(progress: TrainProgress): void | Promise<void>;
  readonly checkpoint?: CheckpointSettings;
}

export interface Distilled {
  readonly training: TrainResult;
  readonly written: ExportedGguf;
  readonly parts: ModelParts;
  /** Tokens of the text, and sequences they were packed into. */
  readonly tokens: number;
  readonly sequences: number;
}

/**
 * Trains the student's weights towards the teacher on public text and writes it as GGUF. Cached: the teacher is asked once and let go
 * before the student is loaded. Weights stored in 4 or 5 bits become q8_0, as their grid would round the change away.
 */
export async function distillModels(input: DistillInput, hooks: DistillHooks): Promise<Distilled> {
  const { student: files, onPolicy, threads } = input;
  forget();
  const checkpoint = await openModel(files.model);
  const teacherConfig = (await openModel(input.teacher.model)).config;
  checkPair(teacherConfig, checkpoint.config);
  const sequence = Math.min(input.sequence ?? SEQUENCE, checkpoint.config.contextLength, teacherConfig.contextLength);
  checkMemory(memoryNeed(checkpoint.config, { kind: 'full' }, { sequence, isPrivate: false }));
  const documents = input.texts.map(text => checkpoint.tokenizer.encode(text));
  const examples = distillExamples(documents, sequence, separatorOf(checkpoint.tokenizer));
  const { model: teacherModel, adapter } = await load(input.teacher, threads);
  const tokenBias = await biasTensor(input.teacher, teacherConfig.vocabSize);
  const teacher: Teacher = { model: teacherModel, ...(adapter && { adapter }), ...(tokenBias && { tokenBias }) };
  const release = (): void => {
    adapter?.dispose();
    teacherModel.dispose();
    tokenBias?.dispose();
  };
  const { temperature = 1, labels = 0, topK } = input;
  let from: DistillRequest['from'];
  if (onPolicy === undefined) {
    try {
      const cache = await cacheTargets(teacher, examples, {
        temperature,
        ...(topK !== undefined && { topK }),
        onProgress: hooks.onTeacher,
      });
      from = { kind: 'cached', cache, temperature, labels };
    } finally {
      release();
    }
  } else from = { kind: 'teacher', teacher, ...onPolicy, end: checkpoint.tokenizer.eosId };
  const student = await load({ model: files.model }, threads);
  try {
    const batch = input.batch ?? BATCH;
    const work = distill({
      student: student.model,
      examples,
      from,
      name: JSON.stringify([input.teacher.model, input.teacher.adapter?.path]),
      steps: input.steps ?? Math.max(60, Math.ceil((3 * examples.length) / batch)),
      batch,
      ...(files.logitBias && { tokenBias: denseBias(pairs(files.logitBias), checkpoint.config.vocabSize) }),
      ...(input.rate !== undefined && { learningRate: input.rate }),
      ...(input.maxSeconds !== undefined && { maxSeconds: input.maxSeconds }),
      seed: createHash('sha256').update('distil public text').digest(),
      ...(hooks.signal && { signal: hooks.signal }),
      ...(hooks.checkpoint && { checkpoint: hooks.checkpoint, resume: true }),
    });
    let next = await work.next();
    for (; !next.done; next = await work.next()) await hooks.onStep(next.value);
    const training = next.value;
    const parts = partsOf(checkpoint, { weights: EditedWeights.overlay(checkpoint.weights, training.weights!) });
    const written = await writeModelGguf(parts, input.out, { type: typeAfterMerge(checkpoint), source: checkpoint });
    const tokens = documents.reduce((sum, document) => sum + document.length, 0);
    return { training, written, parts, tokens, sequences: examples.length };
  } finally {
    student.model.dispose();
    if (onPolicy !== undefined) release();
  }
}

const pairs = (bias: NonNullable<ModelFiles['logitBias']>): [number, number][] => bias.map(([t, b]) => [t, b]);

async function biasTensor({ logitBias }: ModelFiles, vocabSize: number) {
  if (logitBias === undefined) return undefined;
  const { tensorflow } = await import('../../tensor/backend.ts');
  return tensorflow().tensor1d(denseBias(pairs(logitBias), vocabSize));
}

/** A step of a round: a private version may be the teacher, since the text is public. */
export async function distillJob(
  input: Jobs['distill']['input'],
  context: JobContext,
): Promise<Jobs['distill']['result']> {
  const { training, written, parts, tokens } = await distillModels(input, {
    signal: context.signal,
    onTeacher: async (done, total) => {
      context.progress({ stage: 'teacher', done, total });
      await context.breathe();
    },
    onStep: async ({ step, steps, loss }) => {
      context.progress({ stage: 'distill', done: step, total: steps, ...(loss !== undefined && { facts: { loss } }) });
      await context.breathe();
    },
  });
  const { losses, steps, seconds } = training;
  const edge = Math.max(1, Math.min(5, Math.floor(losses.length / 2)));
  const mean = (part: readonly (number | undefined)[]): number =>
    part.reduce<number>((sum, loss) => sum + (loss ?? 0), 0) / part.length;
  return {
    ...modelResult(written, parts),
    ...{ steps, seconds, tokens, first: mean(losses.slice(0, edge)), last: mean(losses.slice(-edge)) },
  };
}
