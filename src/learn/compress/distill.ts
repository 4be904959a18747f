/**
 * A smaller model learns to speak as a larger one: recovery after pruning, or a compact student. On public text; what a teacher
 * trained under differential privacy says to public prompts is post-processing of what was released, and costs nothing more.
 */
import { invalid } from '../../base/errors.ts';
import { attentionBatch, groupByLength, scoredRows } from '../model/engine/batch.ts';
import type { EngineModel } from '../model/engine/model.ts';
import type { SoftTargets } from '../model/engine/soft-head.ts';
import type { Example } from '../model/engine/units.ts';
import type { ModelConfig } from '../model/types.ts';
import { streamFor } from '../privacy/index.ts';
import { tensorflow } from '../tensor/backend.ts';
import type { CheckpointSettings } from '../training/checkpoint.ts';
import { causalExample, packDocuments } from '../training/pretrain-examples.ts';
import type { Method } from '../training/trainables.ts';
import { type TrainProgress, type TrainResult, train } from '../training/trainer.ts';
import { gkdHead, type KlSettings, klHead, type Teacher, teacherTopK } from './distill-head.ts';
import { sampleContinuations } from './sample.ts';

/** @throws LearndError('invalid') when the two do not count the same tokens */
export function checkPair(teacher: ModelConfig, student: ModelConfig): void {
  if (teacher.vocabSize === student.vocabSize) return;
  throw invalid(
    'teacher',
    `the teacher knows ${teacher.vocabSize} tokens, the student ${student.vocabSize}: they must share a vocabulary`,
  );
}

/** Documents packed for distillation: every token but a document's first is compared. */
export const distillExamples = (
  documents: readonly (readonly number[])[],
  sequenceLength: number,
  separator: number | undefined,
): Example[] => packDocuments(documents, { sequenceLength, separator }).map(causalExample);

/** What the teacher says to each example: k numbers a token in place of the vocabulary's. */
export type TargetCache = ReadonlyMap<Example, SoftTargets>;

export interface CacheOptions {
  /** Tokens kept a row. Default 64; the rest counts as one event. */
  readonly topK?: number;
  readonly temperature?: number;
  readonly maxTokens?: number;
  readonly onProgress?: (done: number, total: number) => void | Promise<void>;
}

/** Asks the teacher once; afterwards its weights are no longer needed. */
export async function cacheTargets(
  teacher: Teacher,
  examples: readonly Example[],
  options: CacheOptions = {},
): Promise<TargetCache> {
  const { temperature = 1, maxTokens = 1024 } = options;
  const k = Math.min(options.topK ?? 64, teacher.model.config.vocabSize);
  if (!Number.isInteger(k) || k < 1) throw invalid('top_k', `must be a whole number of at least 1, not ${k}`);
  if (!(temperature > 0)) throw invalid('temperature', `must be above 0, not ${temperature}`);
  const cache = new Map<Example, SoftTargets>();
  for (const group of groupByLength(
    examples.map(e => e.tokens.length),
    maxTokens,
  )) {
    const members = group.map(i => examples[i]!);
    const batch = attentionBatch(members, teacher.model.config);
    const scored = scoredRows(
      batch,
      () => 1,
      members.map(m => m.mask),
      members.map(m => m.targets),
    );
    const all = teacherTopK(teacher, batch, scored, k, temperature);
    let at = 0;
    members.forEach((member, b) => {
      let rows = 0;
      while (scored.sequence[at + rows] === b) rows++;
      const [from, to] = [at * k, (at + rows) * k];
      cache.set(member, { k, tokens: all.tokens.slice(from, to), probabilities: all.probabilities.slice(from, to) });
      at += rows;
    });
    await options.onProgress?.(cache.size, examples.length);
  }
  return cache;
}

const joined = (cache: TargetCache, members: readonly Example[]): SoftTargets => {
  const parts = members.map(member => cache.get(member)!);
  const size = parts.reduce((sum, part) => sum + part.tokens.length, 0);
  const all = { k: parts[0]!.k, tokens: new Int32Array(size), probabilities: new Float32Array(size) };
  let at = 0;
  for (const { tokens, probabilities } of parts) {
    all.tokens.set(tokens, at);
    all.probabilities.set(probabilities, at);
    at += tokens.length;
  }
  return all;
};

export interface OnPolicy {
  /** Share of the batches that the student writes itself (lambda of GKD). */
  readonly share: number;
  /** Of the generalised Jensen-Shannon divergence: 0 is KL(teacher || student), 1 is KL(student || teacher). */
  readonly beta: number;
  /** Longest continuation that the student writes, and the prompt it continues. Default 32 and 8. */
  readonly tokens?: number;
  readonly prompt?: number;
  readonly end: number | undefined;
}

export interface DistillRequest {
  readonly student: EngineModel;
  readonly examples: readonly Example[];
  /** What the teacher says to the examples; or, on-policy, the teacher itself. */
  readonly from:
    | ({ readonly kind: 'cached'; readonly cache: TargetCache } & KlSettings)
    | ({ readonly kind: 'teacher'; readonly teacher: Teacher } & OnPolicy);
  /** Of the teacher: a checkpoint belongs to one. */
  readonly name: string;
  /** Default: all weights. */
  readonly method?: Method;
  /** The student's own vocabulary bias, with which it is served. */
  readonly tokenBias?: Float32Array;
  readonly steps: number;
  readonly batch?: number;
  /** Default min(1e-3, 0.1 / hidden). */
  readonly learningRate?: number;
  readonly maxTokens?: number;
  readonly seed: Uint8Array;
  readonly maxSeconds?: number;
  readonly checkpoint?: CheckpointSettings;
  readonly resume?: boolean;
  readonly signal?: AbortSignal;
}

/** Trains the student in place; yields after every step. AdamW(.9, .99), a short warm-up, cosine down to a tenth. */
export async function* distill(request: DistillRequest): AsyncGenerator<TrainProgress, TrainResult> {
  const { student, examples, from, seed, steps, batch = 8 } = request;
  if (examples.length === 0) throw invalid('file', 'there is no text to distil on');
  check(from, request.method);
  const { maxTokens = 1024 } = request;
  const learningRate = request.learningRate ?? Math.min(1e-3, 0.1 / student.config.hidden);
  const kind = from.kind === 'cached' ? `${from.temperature} ${from.labels}` : `gkd ${from.share} ${from.beta}`;
  return yield* train({
    model: student,
    method: request.method ?? { kind: 'full' },
    units: [examples],
    ...{ steps, batch, seed, maxTokens, signal: request.signal, maxSeconds: request.maxSeconds },
    optimizer: { kind: 'adam', learningRate, betas: [0.9, 0.99], weightDecay: 0 },
    schedule: { kind: 'cosine', warmup: Math.min(20, Math.ceil(steps / 10)), floor: 0.1 },
    ...(request.tokenBias && { tokenBias: request.tokenBias }),
    head: {
      name: `distil ${request.name} ${kind}`,
      pass: (members, of) =>
        from.kind === 'cached' ? klHead(joined(from.cache, members), from) : gkdHead(from.teacher, of, from.beta),
    },
    ...(from.kind === 'teacher' && { rewrite: (drawn, step) => written(request, from, drawn, step) }),
    ...(request.checkpoint && { checkpoint: request.checkpoint, resume: request.resume === true }),
  });
}

function check(from: DistillRequest['from'], method: Method | undefined): void {
  const share = (name: string, value: number): void => {
    if (!(value >= 0 && value <= 1)) throw invalid(name, `must lie from 0 to 1, not ${value}`);
  };
  if (from.kind === 'teacher') {
    share('share', from.share);
    share('beta', from.beta);
    if (method !== undefined && method.kind !== 'full')
      throw invalid('method', 'a student that writes its own text is trained with all its weights (full)');
    return;
  }
  share('labels', from.labels);
  if (!(from.temperature > 0)) throw invalid('temperature', `must be above 0, not ${from.temperature}`);
}

/** A batch as drawn, or continuations by the student of its beginnings: by a coin that a taken-up training throws alike. */
async function written(
  { student, seed, tokenBias, examples }: DistillRequest,
  { share, tokens = 32, prompt = 8, end }: OnPolicy,
  drawn: readonly Example[],
  step: number,
): Promise<Example[]> {
  const stream = streamFor(seed, `on-policy ${step}`);
  if (stream.uniform() >= share || examples.length === 0) return [...drawn];
  const prompts = drawn.map(({ tokens: all, segments }) => {
    const first = segments === undefined ? all : all.filter((_, t) => segments[t] === segments[0]);
    return first.slice(0, Math.max(1, Math.min(prompt, first.length)));
  });
  const bias = tokenBias && tensorflow().tensor1d(tokenBias);
  try {
    const sequences = sampleContinuations(student, prompts, { tokens, end, tokenBias: bias }, stream);
    return sequences.map((sequence, i) => ({
      tokens: sequence,
      mask: sequence.map((_, t) => t >= prompts[i]!.length),
    }));
  } finally {
    bias?.dispose();
  }
}
