import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { invalid, LearndError } from '../../../base/errors.ts';
import { maskOf, separatorOf } from '../../build/vocabulary.ts';
import { loadEngineAdapter, loadEngineModel, toHost } from '../../model/engine/index.ts';
import type { Example } from '../../model/engine/units.ts';
import { EditedWeights, writeLoraGguf, writeModelGguf } from '../../model/export.ts';
import { textChunk, writeAtomically } from '../../model/formats/atomic-file.ts';
import { stackAdapters } from '../../model/lora.ts';
import { mergeLora } from '../../model/merge.ts';
import type { Checkpoint, HostTensor, WeightSource } from '../../model/types.ts';
import { streamFor } from '../../privacy/index.ts';
import { LEAST_SIGNAL, shapeOf, signalOf } from '../../training/auto.ts';
import { type DocumentsRequest, trainDocuments } from '../../training/documents.ts';
import { groupsOf } from '../../training/examples.ts';
import { denseBias, type Method, type VocabularyBias } from '../../training/index.ts';
import { variantUnits } from '../../training/objectives/index.ts';
import { type Gaps, unitsWithGaps } from '../../training/pretrain-examples.ts';
import { PUBLIC_SENTENCES } from '../../training/public-text.ts';
import { documentVariants } from '../../training/variants.ts';
import type { JobContext } from '../serve.ts';
import type { DocumentsInput, DocumentsTrained, Jobs } from '../types.ts';
import { forget, type Loaded, load } from './loaded.ts';
import { modelResult, parametersOf, partsOf } from './model-file.ts';
import { beforeTraining, type Verify } from './self-check.ts';
import { anchorsFor, termsOf } from './terms.ts';
import { checkFigure, planOf, unitsOf } from './text-training.ts';

/** Examples of a step without noise, and how often each is seen (40 steps of 64 took SmolLM2-135M from 96 to 24: algorithms 12). */
const BATCH = 32;
const PASSES = 3;
const FEWEST_STEPS = 30;
const MOST_STEPS = 400;

type Trained = Awaited<ReturnType<typeof trainDocuments>>;

/**
 * Trains on documents and writes what changed: a bias as JSON, norm scales and full weights as a model file in which everything else
 * is copied as it is stored, LoRA as an adapter file. Progress tells steps and speed only: losses are not covered by the noise.
 */
export async function trainDocumentsJob(
  input: Jobs['train-documents']['input'],
  context: JobContext,
): Promise<DocumentsTrained> {
  forget();
  const anchors = input.against && (await anchorsFor(input.against, input.threads));
  const loaded = await loadForTraining(input);
  const terms = input.against && termsOf(input.against, loaded, anchors!);
  const { model, checkpoint } = loaded;
  const groups = input.augment === undefined ? undefined : await variedOf(input, input.augment, checkpoint, context);
  const whole = groups?.map(of => of.map(([example]) => example!)) ?? unitsOf(input, checkpoint.tokenizer);
  const units = input.gaps === undefined ? whole : gapped(input, input.gaps, whole, checkpoint);
  const started = performance.now();
  const before = input.steps?.method.kind === 'norms' ? norms(model) : undefined;
  const old = input.files.logitBias && denseBias(input.files.logitBias as VocabularyBias, checkpoint.config.vocabSize);
  const verify = await beforeTraining(loaded, context, old);
  const trained = await trainDocuments({
    ...{ model, units, maxSeconds: input.maxSeconds, signal: context.signal },
    ...(loaded.adapter && { adapter: loaded.adapter }),
    ...(input.files.logitBias && { bias: input.files.logitBias.map(([token, value]) => [token, value]) }),
    ...(input.histogram && {
      histogram: { plan: input.histogram === 'none' ? undefined : planOf(input.histogram, units.length) },
    }),
    publicText: PUBLIC_SENTENCES.map(text => checkpoint.tokenizer.encode(text)),
    ...(input.steps && {
      steps: {
        ...{ ...stepsOf(input.steps, whole, checkpoint.config.layers), ...checkpointOf(input) },
        ...(terms && { beside: terms }),
        ...(input.against?.ema !== undefined && { ema: input.against.ema }),
        ...(groups && variantUnits(groups, input.steps.noise === 'none' ? 'tokens' : 'examples')),
      },
    }),
    ...(input.histogram && input.steps && { notWorth: worthOf(input.steps, loaded) }),
    onHistogram: async (done, total) => {
      context.progress({ stage: 'histogram', done, total });
      await context.breathe();
    },
    onStep: ({ step, steps: total, tokensPerSecond }) =>
      context.progress({ stage: 'steps', done: step, total, facts: { tokensPerSecond: Math.round(tokensPerSecond) } }),
  });
  try {
    const files =
      trained.nothing === undefined
        ? await writeFiles(input, loaded, trained, context, { before, verify, old })
        : undefined;
    return {
      ...(files ?? { change: 0, check: 0 }),
      ...(trained.nothing !== undefined && { nothing: trained.nothing }),
      steps: trained.steps?.steps ?? 0,
      notes: [...trained.notes, ...(files?.model?.notes ?? [])],
      outOfTime: trained.steps?.outOfTime ?? false,
      seconds: (performance.now() - started) / 1000,
      tokensPerSecond: trained.steps?.tokensPerSecond ?? 0,
    };
  } finally {
    terms?.dispose();
    loaded.adapter?.dispose();
    model.dispose();
  }
}

/** A new adapter is trained over the weights with the version's own adapter worked in: nothing is rounded, both are stacked later. */
export async function loadForTraining(input: Pick<DocumentsInput, 'files' | 'threads' | 'steps'>): Promise<Loaded> {
  const loaded = await load(input.files, input.threads);
  const { lora, checkpoint, adapter } = loaded;
  if (lora === undefined || input.steps === undefined || input.steps.method.kind === 'norms') return loaded;
  if (input.steps.method.kind === 'full')
    throw invalid('method', 'full training of a model under an adapter: merge the adapter first');
  adapter?.dispose();
  loaded.model.dispose();
  const weights = mergeLora(checkpoint.weights, lora);
  return { checkpoint, lora, adapter: undefined, model: loadEngineModel({ config: checkpoint.config, weights }) };
}

function stepsOf(
  { method: wanted, noise }: NonNullable<DocumentsInput['steps']>,
  units: ReturnType<typeof unitsOf>,
  layers: number,
): NonNullable<DocumentsRequest['steps']> {
  const method = within(wanted, layers);
  if (noise !== 'none') return { method, plan: planOf(noise, units.length), seed: Buffer.from(noise.seed, 'hex') };
  const examples = units.reduce((sum, unit) => sum + unit.length, 0);
  const steps = Math.min(MOST_STEPS, Math.max(FEWEST_STEPS, Math.ceil((PASSES * examples) / BATCH)));
  return { method, steps, batch: BATCH, schedule: { kind: 'cosine', warmup: 5, floor: 0.1 } };
}

/** Examples with those of their document's variants, by unit. */
async function variedOf(
  input: DocumentsInput,
  count: number,
  { tokenizer }: Checkpoint,
  context: JobContext,
): Promise<Example[][][]> {
  if (input.gaps !== undefined) throw invalid('augment', 'gaps are variants of a text already: leave one of them out');
  const texts = input.documents.map(({ text }) => text);
  const variation = { seed: `augment:${secretOf(input)}`, count };
  const variants = await documentVariants(texts, variation, () => context.breathe());
  return groupsOf(input, tokenizer, variants);
}

/** What a retried training has again, and nobody else knows under noise. */
const secretOf = ({ steps, checkpoint }: DocumentsInput): string =>
  steps === undefined || steps.noise === 'none' ? (checkpoint?.path ?? '') : steps.noise.seed;

/**
 * Where gaps lie says nothing of the data; a retried training has the same ones, drawn from its sealed seed under noise. Public text is
 * seen several times, with other gaps each time; a private unit keeps its number of examples.
 */
function gapped(input: DocumentsInput, gaps: Gaps, units: Example[][], { config, tokenizer }: Checkpoint): Example[][] {
  const { steps } = input;
  const isPublic = steps?.noise === undefined || steps.noise === 'none';
  const maskId = maskOf(tokenizer);
  const special = new Set([maskId, separatorOf(tokenizer)].filter(id => id !== undefined));
  const stream = streamFor(
    createHash('sha256')
      .update(`gaps:${secretOf(input)}`)
      .digest(),
    'gaps',
  );
  const found = unitsWithGaps(
    units,
    { ...gaps, maskId },
    { vocabSize: Math.min(config.vocabSize, tokenizer.vocabSize), special },
    isPublic ? PASSES : 1,
    stream,
  );
  if (found.every(unit => unit.length === 0)) throw invalid('documents', 'they are too short to have gaps');
  return found;
}

/** The order of public examples needs no secret, only to be the same when the training goes on. */
function checkpointOf({ checkpoint, steps }: DocumentsInput) {
  if (checkpoint === undefined) return {};
  const seed = createHash('sha256').update(checkpoint.path).digest();
  return { checkpoint, resume: 'same' as const, ...(steps?.noise === 'none' && { seed }) };
}

/** A small model may have fewer blocks than are asked for. */
const within = (wanted: Method, layers: number): Method =>
  'layers' in wanted && wanted.layers !== undefined ? { ...wanted, layers: Math.min(wanted.layers, layers) } : wanted;

const methodOf = (input: Pick<DocumentsInput, 'steps'>, layers: number): Method => within(input.steps!.method, layers);

/** The charged check (training/auto.ts): with the units that the histogram counted, are the steps worth their noise? */
function worthOf({ method, noise }: NonNullable<DocumentsInput['steps']>, { checkpoint }: Loaded) {
  if (noise === 'none') return () => undefined;
  const shape = shapeOf(checkpoint.config, parametersOf(checkpoint.weights));
  return (units: number): string | undefined => {
    const signal = signalOf(method.kind, shape, units, noise);
    if (signal >= LEAST_SIGNAL) return undefined;
    return `no steps after the histogram: with the ${units} units that it counted, their signal would be ${signal.toPrecision(2)} of the noise (at least ${LEAST_SIGNAL} is asked for)`;
  };
}

type Written = Pick<DocumentsTrained, 'bias' | 'adapter' | 'model' | 'change' | 'check'>;

export async function writeFiles(
  input: Pick<DocumentsInput, 'folder' | 'steps'>,
  loaded: Loaded,
  { bias, release, steps }: Pick<Trained, 'bias' | 'release' | 'steps'>,
  context: JobContext,
  {
    before,
    verify,
    old,
  }: { before: ReadonlyMap<string, HostTensor> | undefined; verify: Verify; old?: Float32Array | undefined },
): Promise<Written> {
  const { checkpoint, model } = loaded;
  const tokenBias = bias && denseBias(bias, checkpoint.config.vocabSize);
  // A new bias is there to make other text than the documents unlikely: whether the weights have come apart shows without it.
  const probe = async (of: Parameters<typeof checkFigure>[0], check: number): Promise<number> =>
    release === undefined ? check : await checkFigure(of, context, old);
  const written: { -readonly [K in 'bias' | 'adapter' | 'model']?: Written[K] } = {};
  if (bias && release) written.bias = await writeBias(bias, join(input.folder, 'bias.json'));
  let change = 0;
  let check: number;
  if (steps?.adapter) {
    // B starts at zero: its norm is how far the product has moved.
    const pairs = [...steps.adapter.pairs.values()];
    change = Math.sqrt(pairs.reduce((sum, { b }) => sum + b.data.reduce((square, x) => square + x * x, 0), 0));
    const fresh = loadEngineAdapter(model, steps.adapter);
    const adapted = { ...loaded, adapter: fresh };
    check = await checkFigure(adapted, context, tokenBias);
    await verify({
      ...{ method: methodOf(input, checkpoint.config.layers), fresh, tokenBias },
      check: await probe(adapted, check),
    });
    fresh.dispose();
    const whole = loaded.lora === undefined ? steps.adapter : stackAdapters(loaded.lora, steps.adapter);
    const file = await writeLoraGguf(whole, checkpoint, join(input.folder, 'lora.gguf'));
    written.adapter = { file: { path: file.path, sha256: file.sha256, bytes: file.bytes }, rank: whole.rank };
  } else {
    check = await checkFigure(loaded, context, tokenBias);
    const method = steps && methodOf(input, checkpoint.config.layers);
    await verify({ method, tokenBias, check: await probe(loaded, check) });
    if (steps?.weights) {
      change = before === undefined ? steps.lastChange : distance(before, steps.weights);
      const parts = partsOf(checkpoint, { weights: EditedWeights.overlay(checkpoint.weights, steps.weights) });
      const type = input.steps!.method.kind === 'full' ? typeOfFull(checkpoint.weights) : 'keep';
      const file = await writeModelGguf(parts, join(input.folder, 'weights.gguf'), { type, source: checkpoint });
      written.model = modelResult(file, parts);
    }
  }
  if (steps && !(change > 0)) throw new LearndError('internal', 'the weights are the same after training as before');
  return { ...written, change, check };
}

/** Small changes of all weights would be rounded away by block formats. */
function typeOfFull(weights: WeightSource): 'keep' | 'f16' {
  const typed = weights as WeightSource & { storedType?: (name: string) => string };
  const blocks = weights.names().some(name => /^(q\d|iq|tq)/.test(typed.storedType?.(name) ?? ''));
  return blocks ? 'f16' : 'keep';
}

async function writeBias(bias: VocabularyBias, path: string): Promise<NonNullable<Written['bias']>> {
  return { file: await writeAtomically(path, textChunk(JSON.stringify(bias))), tokens: bias.length };
}

export const norms = (model: Loaded['model']): ReadonlyMap<string, HostTensor> =>
  new Map(
    model.parameterNames().flatMap(name => (/norm\.weight$/.test(name) ? [[name, toHost(model.parameter(name))]] : [])),
  );

function distance(before: ReadonlyMap<string, HostTensor>, after: ReadonlyMap<string, HostTensor>): number {
  let square = 0;
  for (const [name, { data }] of after) {
    const old = before.get(name)!.data;
    for (let i = 0; i < data.length; i++) square += (data[i]! - old[i]!) ** 2;
  }
  return Math.sqrt(square);
}
