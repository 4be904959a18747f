import { invalid } from '../../base/errors.ts';
import { type EngineModel, expectedShapes, loadEngineModel } from '../model/engine/model.ts';
import type { HostTensor, ModelConfig, WeightSource } from '../model/types.ts';
import { type SecureStream, streamFor } from '../privacy/index.ts';
import type { CheckpointSettings } from './checkpoint.ts';
import type { Schedule } from './optimizer.ts';
import { type PretrainObjective, packDocuments, pretrainExamples } from './pretrain-examples.ts';
import { type TrainProgress, type TrainResult, train } from './trainer.ts';

/** The shape of a small model pre-trained here; everything has a default that trains in well under a minute on two cores. */
export interface ScratchShape {
  readonly vocabSize: number;
  /** Default 96. */
  readonly hidden?: number;
  /** Default 3. */
  readonly layers?: number;
  /** Default 4, sharing `kvHeads` (default half as many) key/value heads. */
  readonly heads?: number;
  readonly kvHeads?: number;
  /** Default 256 for the default width: llama.cpp's quantization wants multiples of 32. */
  readonly ffn?: number;
  readonly contextLength?: number;
  /** The head is the embedding's matrix (default), or one of its own. */
  readonly tied?: boolean;
}

/** @throws LearndError('invalid') for a shape that llama.cpp or the attention cannot take. */
export function scratchConfig(shape: ScratchShape): ModelConfig {
  const { vocabSize, hidden = 96, layers = 3, heads = 4, contextLength = 1024, tied = true } = shape;
  const kvHeads = shape.kvHeads ?? (heads % 2 === 0 ? heads / 2 : heads);
  const ffn = shape.ffn ?? Math.round((hidden * 8) / 3 / 32) * 32;
  const whole = { vocabSize, hidden, layers, heads, kvHeads, ffn, contextLength };
  for (const [field, value] of Object.entries(whole))
    if (!Number.isInteger(value) || value < 1)
      throw invalid(field, `${field} must be a whole number of at least 1, not ${value}`);
  if (hidden % heads !== 0 || (hidden / heads) % 2 !== 0)
    throw invalid('hidden', `hidden ${hidden} must be an even multiple of the ${heads} heads`);
  if (heads % kvHeads !== 0) throw invalid('kvHeads', `${heads} heads cannot share ${kvHeads} key/value heads evenly`);
  return {
    ...{ vocabSize, hidden, layers, heads, kvHeads, contextLength },
    headDim: hidden / heads,
    ffn: new Array<number>(layers).fill(ffn),
    ...{ ropeTheta: 10_000, rmsEps: 1e-5, tied, attentionBias: false },
  };
}

/**
 * Random starting weights: N(0, 0.02^2), the outputs of attention and feed-forward scaled by 1/sqrt(2 layers) (GPT-2), norm
 * scales 1.
 */
export function randomWeights(config: ModelConfig, stream: SecureStream): WeightSource {
  const weights = new Map<string, HostTensor>();
  for (const [name, shape] of expectedShapes(config)) {
    const size = shape.reduce((product, n) => product * n, 1);
    const narrow = /(o_proj|down_proj)\.weight$/.test(name) ? 1 / Math.sqrt(2 * config.layers) : 1;
    const constant = name.endsWith('norm.weight') ? 1 : 0;
    const data = shape.length === 1 ? new Float32Array(size).fill(constant) : stream.normal(size, 0.02 * narrow);
    weights.set(name, { shape, data });
  }
  return mapSource(weights);
}

export function mapSource(weights: ReadonlyMap<string, HostTensor>): WeightSource {
  const get = (name: string): HostTensor => {
    const tensor = weights.get(name);
    if (tensor === undefined) throw invalid('name', `there is no weight ${name}`);
    return tensor;
  };
  return { names: () => [...weights.keys()], shape: name => get(name).shape, read: get };
}

export interface PretrainRequest {
  readonly config: ModelConfig;
  /** Public text as token ids, a document each: pre-training has no privacy. */
  readonly documents: readonly (readonly number[])[];
  /** Put before and after each document, which sees no other; the tokenizer's end-of-text id. */
  readonly separator: number | undefined;
  /** Default: the next word. */
  readonly objective?: PretrainObjective;
  /** Weights to go on from. Default: random ones. */
  readonly weights?: WeightSource;
  /** Default 128 tokens. */
  readonly sequenceLength?: number;
  /** Sequences a step; default 8. */
  readonly batch?: number;
  /** Default: three passes over the text, at least 100 steps. */
  readonly steps?: number;
  /** Passes over the text in place of `steps`. */
  readonly passes?: number;
  /** Default 3e-3: right for widths of 64 to 128; wider models want less. */
  readonly learningRate?: number;
  /** Default cosine, down to `floor` (default a tenth), after `warmup` steps (default a tenth of them, at most 50). */
  readonly schedule?: { readonly kind: Schedule; readonly warmup?: number; readonly floor?: number };
  readonly seed: Uint8Array;
  readonly maxSeconds?: number;
  readonly checkpoint?: CheckpointSettings;
  readonly resume?: boolean;
  readonly signal?: AbortSignal;
}

export interface PretrainResult extends TrainResult {
  readonly weights: Map<string, HostTensor>;
}

/**
 * Pre-trains a small model: AdamW(.9, .95), weight decay .1 on matrices, warm-up, cosine down to a tenth.
 */
export async function* pretrain(request: PretrainRequest): AsyncGenerator<TrainProgress, PretrainResult> {
  const { config, documents, separator, sequenceLength = 128, batch = 8, seed } = request;
  const { objective = { kind: 'causal' }, schedule = { kind: 'cosine' } } = request;
  const packed = packDocuments(documents, {
    sequenceLength: Math.min(sequenceLength, config.contextLength),
    separator,
  });
  if (packed.length === 0) throw invalid('documents', 'there is no text to pre-train on');
  const byPasses = Math.ceil(((request.passes ?? 3) * packed.length) / batch);
  const steps = request.steps ?? (request.passes === undefined ? Math.max(100, byPasses) : byPasses);
  const special = new Set(
    [separator, objective.kind === 'causal' ? undefined : objective.maskId].filter(id => id !== undefined),
  );
  const examples = pretrainExamples(
    packed,
    objective,
    { vocabSize: config.vocabSize, special },
    (steps * batch) / packed.length,
    streamFor(seed, 'gaps'),
  );
  const weights = request.weights ?? randomWeights(config, streamFor(seed, 'weights'));
  const model: EngineModel = loadEngineModel({ config, weights });
  try {
    const result = yield* train({
      model,
      method: { kind: 'full' },
      units: [examples],
      ...{ steps, batch, seed, maxTokens: 2048, maxSeconds: request.maxSeconds, signal: request.signal },
      optimizer: { kind: 'adam', learningRate: request.learningRate ?? 3e-3, betas: [0.9, 0.95], weightDecay: 0.1 },
      schedule: { warmup: Math.min(50, Math.ceil(steps / 10)), floor: 0.1, ...schedule },
      ...(request.checkpoint && { checkpoint: request.checkpoint, resume: request.resume === true }),
    });
    return { ...result, weights: result.weights! };
  } finally {
    model.dispose();
  }
}
