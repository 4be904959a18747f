import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { invalid, LearndError } from '../base/errors.ts';
import { CHAT_TEMPLATE, maskOf, SPECIALS, separatorOf, trainVocabulary } from '../learn/build/vocabulary.ts';
import { writeModelGguf } from '../learn/model/export.ts';
import { textChunk, writeAtomically } from '../learn/model/formats/atomic-file.ts';
import { openModel } from '../learn/model/open.ts';
import { BpeTokenizer } from '../learn/model/tokenizer/bpe.ts';
import { readTokenizerJson, tokenizerJson } from '../learn/model/tokenizer/hf-json.ts';
import type { ModelConfig, Tokenizer, WeightSource } from '../learn/model/types.ts';
import { checkMemory, memoryNeed, parameterCount } from '../learn/training/memory.ts';
import type { Schedule } from '../learn/training/optimizer.ts';
import type { PretrainObjective } from '../learn/training/pretrain-examples.ts';
import { destroySeal, isSealed, seal, statePath, unseal } from '../learn/training/seal.ts';
import { type DocumentKind, readDocuments } from './documents.ts';
import { writeLossCurve } from './loss-curve.ts';
import { modelPath } from './model-path.ts';
import { ensureNative } from './native.ts';
import { utf8Text } from './text-lines.ts';
import { peakRssMb } from './train-job.ts';
import { checkOut, checkpointFolder } from './train-options.ts';
import { interrupts, progressLines } from './train-progress.ts';

export const PRETRAIN_OBJECTIVES = ['causal', 'masked', 'mixed'] as const;
export const SCHEDULES = ['constant', 'cosine', 'linear'] as const;

export interface PretrainOptions {
  readonly file: readonly string[];
  /** What a document is; default line. */
  readonly documents?: DocumentKind;
  /** A vocabulary that is there (tokenizer.json, or a model's); without it one of `vocab` tokens is trained. */
  readonly tokenizer?: string;
  readonly vocab?: number;
  /** A model to go on from, in place of random weights. */
  readonly from?: string;
  readonly objective?: (typeof PRETRAIN_OBJECTIVES)[number];
  /** Of mixed: share of sequences with gaps (default a half), and whether they see both sides. */
  readonly maskedShare?: number;
  readonly bidirectional?: boolean;
  readonly hidden?: number;
  readonly layers?: number;
  readonly heads?: number;
  readonly kvHeads?: number;
  readonly ffn?: number;
  readonly context?: number;
  readonly untied?: boolean;
  readonly sequence?: number;
  readonly batch?: number;
  readonly steps?: number;
  readonly passes?: number;
  readonly rate?: number;
  readonly schedule?: Schedule;
  readonly warmup?: number;
  /** Share of the documents that is not trained on, but measured at the end. Default 0.05. */
  readonly holdout?: number;
  readonly seed?: string;
  readonly minutes?: number;
  readonly checkpointEvery?: number;
  readonly out?: string;
  readonly resume?: string;
}

export interface Pretrained {
  readonly steps: number;
  readonly objective: string;
  readonly loss: readonly (number | null)[];
  readonly parameters: number;
  readonly vocab_size: number;
  /** Trained on. */
  readonly documents: number;
  readonly tokens: number;
  /** Of documents not trained on; null for the masked objective, which gives no next word. */
  readonly holdout: { readonly perplexity: number; readonly bits_per_byte: number; readonly tokens: number } | null;
  readonly seconds_per_step: number;
  readonly tokens_per_second: number;
  readonly peak_rss_mb: number;
  readonly out: string;
  readonly files: readonly string[];
}

const WHOLE = {
  ...{ vocab: 1, hidden: 1, layers: 1, heads: 1, kvHeads: 1, ffn: 1, context: 2, sequence: 2, batch: 1, steps: 1 },
  ...{ warmup: 0, checkpointEvery: 1 },
} as const;

/** Everything that can be seen from the options alone. @throws LearndError('invalid') naming the option */
function check(options: PretrainOptions): void {
  if (!options.file?.length) throw invalid('file', '--file is needed: the text to learn from');
  for (const [name, least] of Object.entries(WHOLE)) {
    const value = options[name as keyof typeof WHOLE];
    if (value !== undefined && (!Number.isInteger(value) || value < least))
      throw invalid(name, `${name} must be a whole number of at least ${least}, not ${value}`);
  }
  for (const name of ['rate', 'passes', 'minutes'] as const) {
    const value = options[name];
    if (value !== undefined && !(value > 0)) throw invalid(name, `${name} must be above 0, not ${value}`);
  }
  const { holdout = 0, maskedShare = 1, objective = 'causal' } = options;
  if (!(holdout >= 0 && holdout < 1)) throw invalid('holdout', `must lie from 0 to below 1, not ${holdout}`);
  if (!(maskedShare > 0 && maskedShare <= 1))
    throw invalid('maskedShare', `the share of sequences with gaps must lie above 0 and up to 1, not ${maskedShare}`);
  if (objective !== 'mixed' && (options.maskedShare !== undefined || options.bidirectional !== undefined))
    throw invalid('objective', '--masked-share and --bidirectional belong to --objective mixed');
  if (options.steps !== undefined && options.passes !== undefined)
    throw invalid('passes', 'give --steps or --passes, not both');
  if (options.from === undefined) return;
  const shape = (['hidden', 'layers', 'heads', 'kvHeads', 'ffn', 'context', 'untied', 'vocab'] as const).find(
    name => options[name] !== undefined,
  );
  if (shape !== undefined) throw invalid(shape, `the shape is that of ${options.from}: leave ${shape} out`);
}

interface Start {
  readonly tokenizer: Tokenizer;
  readonly config: ModelConfig;
  readonly weights?: WeightSource;
  readonly chatTemplate: string | undefined;
}

async function readTokenizer(path: string): Promise<Tokenizer> {
  if (!/\.json$/.test(path)) return (await openModel(await modelPath(path))).tokenizer;
  // What ends an answer is written beside tokenizer.json, not in it.
  const turns = [...SPECIALS].slice(0, 2).every(name => utf8Text(path).includes(JSON.stringify(name)));
  return readTokenizerJson(path, turns ? { bos_token: SPECIALS[0], eos_token: SPECIALS[1] } : {});
}

async function startOf(options: PretrainOptions, documents: readonly string[]): Promise<Start> {
  if (options.from !== undefined) {
    const { tokenizer, config, weights, chatTemplate } = await openModel(await modelPath(options.from));
    return { tokenizer, config, weights, chatTemplate };
  }
  const { scratchConfig } = await import('../learn/training/pretrain.ts');
  const tokenizer =
    options.tokenizer === undefined
      ? trainVocabulary(documents, options.vocab ?? 2048)
      : await readTokenizer(options.tokenizer);
  const { hidden, layers, heads, kvHeads, ffn, context, untied } = options;
  const config = scratchConfig({
    vocabSize: tokenizer.vocabSize,
    tied: untied !== true,
    ...(hidden !== undefined && { hidden }),
    ...(layers !== undefined && { layers }),
    ...(heads !== undefined && { heads }),
    ...(kvHeads !== undefined && { kvHeads }),
    ...(ffn !== undefined && { ffn }),
    ...(context !== undefined && { contextLength: context }),
  });
  return { tokenizer, config, chatTemplate: CHAT_TEMPLATE };
}

function objectiveOf(options: PretrainOptions, tokenizer: Tokenizer): PretrainObjective {
  const { objective = 'causal', maskedShare: share = 0.5, bidirectional = false } = options;
  if (objective === 'causal') return { kind: objective };
  const maskId = maskOf(tokenizer);
  return objective === 'masked' ? { kind: objective, maskId } : { kind: objective, maskId, share, bidirectional };
}

/** Every so many-th document, spread over the text and the same ones each time. */
function split(documents: readonly string[], share: number): { train: string[]; held: string[] } {
  const train: string[] = [];
  const held: string[] = [];
  let due = share / 2;
  for (const document of documents) {
    due += share;
    if (due >= 1) held.push(document);
    else train.push(document);
    if (due >= 1) due -= 1;
  }
  return { train, held };
}

/** `learnd pretrain`: a model from nothing but text, or one taken further on it. Begins, or goes on where it was interrupted. */
export async function run(given: PretrainOptions): Promise<Pretrained> {
  const folder = given.resume === undefined ? undefined : checkpointFolder(resolve(given.resume));
  const options: PretrainOptions =
    folder === undefined
      ? { ...given, out: resolve(given.out ?? 'pretrained'), file: given.file?.map(file => resolve(file)) }
      : {
          ...unseal<PretrainOptions>(folder).request,
          ...(given.minutes !== undefined && { minutes: given.minutes }),
          resume: given.resume!,
        };
  check(options);
  const out = options.out!;
  const checkpoint = folder ?? join(out, 'checkpoint');
  if (folder === undefined && isSealed(checkpoint))
    throw new LearndError('conflict', `${out} holds a pre-training that has not ended`, {
      field: 'out',
      hint: `Go on with it: learnd pretrain --resume ${out}; or remove ${checkpoint}.`,
      retriable: false,
    });
  return await pretrainInto(options, out, checkpoint);
}

async function pretrainInto(options: PretrainOptions, out: string, checkpoint: string): Promise<Pretrained> {
  const documents = readDocuments(options.file, options.documents ?? 'line');
  const { train, held } = split(documents, documents.length < 20 ? 0 : (options.holdout ?? 0.05));
  const start = await startOf(options, train);
  const { tokenizer, config } = start;
  if (tokenizer.vocabSize > config.vocabSize)
    throw invalid('tokenizer', `it knows ${tokenizer.vocabSize} tokens, the weights ${config.vocabSize}`);
  const objective = objectiveOf(options, tokenizer);
  const sequence = Math.min(options.sequence ?? 128, config.contextLength);
  checkMemory(memoryNeed(config, { kind: 'full' }, { sequence, maxTokens: 2048, isPrivate: false }));
  const encoded = train.map(text => tokenizer.encode(text));
  const separator = separatorOf(tokenizer);
  process.stderr.write(
    `${train.length} documents, ${encoded.reduce((sum, d) => sum + d.length, 0)} tokens of ${tokenizer.vocabSize}; ${parameterCount(config)} parameters\n`,
  );
  checkOut(out);
  ensureNative();
  const { pretrain } = await import('../learn/training/pretrain.ts');
  const seed = createHash('sha256')
    .update(`pretrain:${options.seed ?? 'learnd'}`)
    .digest();
  if (!isSealed(checkpoint)) await seal(checkpoint, { seed, request: options });
  const stop = interrupts('stopping here; Ctrl-C once more ends at once');
  const maxSeconds = options.minutes === undefined ? undefined : options.minutes * 60;
  const say = progressLines(maxSeconds === undefined ? {} : { maxSeconds });
  try {
    const { steps, passes, batch, rate, schedule, warmup } = options;
    const work = pretrain({
      ...{ config, documents: encoded, separator, objective, sequenceLength: sequence, seed, signal: stop.signal },
      ...(start.weights && { weights: start.weights }),
      ...(steps !== undefined && { steps }),
      ...(passes !== undefined && { passes }),
      ...(batch !== undefined && { batch }),
      ...(rate !== undefined ? { learningRate: rate } : { learningRate: Math.min(3e-3, 0.3 / config.hidden) }),
      ...((schedule !== undefined || warmup !== undefined) && {
        schedule: { kind: schedule ?? 'cosine', ...(warmup !== undefined && { warmup }) },
      }),
      ...(maxSeconds !== undefined && { maxSeconds }),
      checkpoint: {
        path: statePath(checkpoint),
        losses: true,
        ...(options.checkpointEvery !== undefined && { everySteps: options.checkpointEvery }),
      },
      resume: true,
    });
    let next = await work.next();
    for (; !next.done; next = await work.next()) say(next.value);
    const result = next.value;
    const { mapSource } = await import('../learn/training/pretrain.ts');
    const weights = mapSource(result.weights);
    const files = [join(out, 'model.gguf'), join(out, 'loss.json'), join(out, 'loss.svg')];
    if (tokenizer instanceof BpeTokenizer) {
      await writeAtomically(join(out, 'tokenizer.json'), textChunk(JSON.stringify(tokenizerJson(tokenizer.spec))));
      files.push(join(out, 'tokenizer.json'));
    }
    const { chatTemplate } = start;
    await writeModelGguf(
      { config, weights, tokenizer, name: 'pretrained', ...(chatTemplate !== undefined && { chatTemplate }) },
      join(out, 'model.gguf'),
      { type: 'f32' },
    );
    await writeLossCurve(out, result.losses, { objective: objective.kind, tokens_per_second: result.tokensPerSecond });
    const holdout =
      objective.kind === 'masked' || held.length === 0 ? null : await measure(config, weights, tokenizer, held);
    await destroySeal(checkpoint);
    return {
      steps: result.steps,
      objective: objective.kind,
      loss: result.losses.map(loss => loss ?? null),
      parameters: parameterCount(config),
      vocab_size: tokenizer.vocabSize,
      documents: train.length,
      tokens: encoded.reduce((sum, d) => sum + d.length, 0),
      holdout,
      seconds_per_step: result.seconds / result.steps,
      tokens_per_second: result.tokensPerSecond,
      peak_rss_mb: peakRssMb(),
      out,
      files,
    };
  } catch (thrown) {
    if (!stop.signal.aborted || !existsSync(statePath(checkpoint))) throw thrown;
    throw new LearndError('canceled', `interrupted: ${(thrown as Error).message}`, {
      hint: `Go on with: learnd pretrain --resume ${out}`,
      cause: thrown,
    });
  } finally {
    stop.end();
  }
}

/** Of the next words of documents, the first after a separator. */
async function measure(
  config: ModelConfig,
  weights: WeightSource,
  tokenizer: Tokenizer,
  held: readonly string[],
): Promise<NonNullable<Pretrained['holdout']>> {
  const { loadEngineModel, scoreTokens } = await import('../learn/model/engine/index.ts');
  const separator = separatorOf(tokenizer);
  const model = loadEngineModel({ config, weights });
  try {
    const before = separator === undefined ? [] : [separator];
    const scores = scoreTokens(
      model,
      held.map(text => [...before, ...tokenizer.encode(text)]),
    );
    const nll = scores.reduce((sum, s) => sum + s.nll, 0);
    const tokens = scores.reduce((sum, s) => sum + s.tokens, 0);
    const bytes = held.reduce((sum, text) => sum + Buffer.byteLength(text), 0);
    return { perplexity: Math.exp(nll / tokens), bits_per_byte: nll / Math.LN2 / bytes, tokens };
  } finally {
    model.dispose();
  }
}

export const human = (r: Pretrained): string =>
  [
    `${r.out}: ${r.parameters} parameters, ${r.vocab_size} tokens; ${r.steps} steps on ${r.tokens} tokens at ${Math.round(r.tokens_per_second)} tokens/s`,
    ...(r.holdout === null
      ? []
      : [
          `text not trained on: perplexity ${r.holdout.perplexity.toFixed(2)}, ${r.holdout.bits_per_byte.toFixed(3)} bits per byte`,
        ]),
  ].join('\n');
