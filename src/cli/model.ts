import { statSync } from 'node:fs';
import { invalid } from '../base/errors.ts';
import { LAYER_METHODS, type LayerMethod, pruneByText } from '../learn/compress/by-text.ts';
import { quantizeModel } from '../learn/compress/quantize.ts';
import { widthMethod } from '../learn/compress/scores.ts';
import { SPARSE_METHODS, sparsify, sparsityOf, wandaNorms } from '../learn/compress/sparsify.ts';
import { writeModelGguf } from '../learn/model/export.ts';
import { type OpenedModel, openModel } from '../learn/model/open.ts';
import { PUBLIC_SENTENCES } from '../learn/training/public-text.ts';
import { type PrivateCalibration, privateStatistics, type Spent } from './model-calibrate.ts';
import { modelPath } from './model-path.ts';
import { ensureNative } from './native.ts';
import { textLines } from './text-lines.ts';

/** `model prune` and `model quantize`: what rounds do, outside the daemon. */

export interface Compressed {
  readonly out: string;
  readonly sha256: string;
  readonly size_mb: number;
  readonly size_mb_before: number;
  readonly parameters?: number;
  readonly parameters_before?: number;
  /** Numbers of the layers kept, in the old model. */
  readonly kept_layers?: readonly number[];
  readonly ffn?: readonly number[];
  /** SLEB: what each drop did to the calibration text, nats a token. */
  readonly dropped?: readonly { layer: number; nll: number }[];
  readonly calibration_tokens?: number;
  /** With private calibration. */
  readonly spent?: Spent;
  /** Of `quantize`: how many tensors are of each type. */
  readonly tensors?: Readonly<Record<string, number>>;
  readonly notes: readonly string[];
}

export interface PruneOptions extends PrivateCalibration {
  readonly model: string;
  readonly method?: string;
  readonly ffn?: number;
  readonly uneven?: boolean;
  readonly dropLayers?: number;
  readonly layersBy?: string;
  readonly sparsity?: string;
  readonly seed?: string;
  /** File of public text, or `private`: then `file` and `epsilon`. */
  readonly calibration?: string;
  readonly out: string;
}

const megabytes = (bytes: number): number => Math.round(bytes / 1e4) / 100;
/** Longest piece of calibration text, tokens. */
const SEQUENCE = 256;

function say(stage: string, done: number, total: number): void {
  if (done === total || done % 50 === 0) process.stderr.write(`${stage} ${done}/${total}\n`);
}

const PRIVATE = 'private';

/** Calibrated on public text (a file of the caller's, or the sentences that ship with learnd), or on private text at a cost. */
export async function prune(options: PruneOptions): Promise<Compressed> {
  const layersBy = LAYER_METHODS.find(name => name === (options.layersBy ?? 'influence'));
  if (layersBy === undefined) throw invalid('layers-by', `must be one of ${LAYER_METHODS.join(', ')}`);
  const path = await modelPath(options.model);
  const checkpoint = await openModel(path);
  const isPrivate = options.calibration === PRIVATE;
  if (!isPrivate)
    for (const name of ['file', 'epsilon', 'delta', 'user', 'text'] as const)
      if (options[name] !== undefined)
        throw invalid(name, `--${name} belongs to --calibration private; a file of public text is --calibration FILE`);
  if (isPrivate && options.sparsity !== undefined)
    throw invalid(
      'sparsity',
      'single weights are zeroed by public text alone: the release tells of whole neurons and layers',
    );
  const texts = options.calibration === undefined || isPrivate ? PUBLIC_SENTENCES : textLines(options.calibration);
  const sequences = texts.map(text => checkpoint.tokenizer.encode(text).slice(0, SEQUENCE));
  return options.sparsity === undefined
    ? pruneShapes(checkpoint, path, sequences, options, layersBy)
    : pruneWeights(checkpoint, path, sequences, options);
}

async function pruneShapes(
  checkpoint: OpenedModel,
  path: string,
  sequences: readonly (readonly number[])[],
  options: PruneOptions,
  layersBy: LayerMethod,
): Promise<Compressed> {
  const { loadEngineModel } = await import('../learn/model/engine/index.ts');
  const engine = () => {
    ensureNative();
    return loadEngineModel(checkpoint);
  };
  const plan = {
    layersBy,
    ...(options.method === undefined ? {} : { method: widthMethod(options.method) }),
    ...(options.ffn === undefined ? {} : { ffn: options.ffn }),
    ...(options.dropLayers === undefined ? {} : { dropLayers: options.dropLayers }),
    ...(options.uneven === undefined ? {} : { uneven: options.uneven }),
    ...(options.seed === undefined ? {} : { seed: options.seed }),
  };
  const released =
    options.calibration === PRIVATE ? await privateStatistics(checkpoint, options, plan, say) : undefined;
  const pruned = pruneByText(checkpoint, engine, sequences, plan, {
    onProgress: say,
    ...(released && { statistics: released.statistics }),
  });
  const parts = { ...checkpoint, config: pruned.config, weights: pruned.weights };
  const written = await writeModelGguf(parts, options.out, { type: 'keep', source: checkpoint });
  return {
    out: options.out,
    sha256: written.sha256,
    size_mb: megabytes(written.bytes),
    size_mb_before: megabytes(statSync(path).size),
    parameters: pruned.parameters[1],
    parameters_before: pruned.parameters[0],
    kept_layers: pruned.keptLayers,
    ffn: pruned.config.ffn,
    ...(pruned.sleb && { dropped: pruned.sleb }),
    ...(released ? { spent: released.spent } : { calibration_tokens: pruned.calibrationTokens }),
    notes: written.notes,
  };
}

/** Zeros in place: for comparison; nothing gets smaller or faster. */
async function pruneWeights(
  checkpoint: OpenedModel,
  path: string,
  sequences: readonly (readonly number[])[],
  options: PruneOptions,
): Promise<Compressed> {
  if (options.ffn !== undefined || options.dropLayers !== undefined)
    throw invalid('sparsity', '--sparsity zeroes single weights: use --ffn and --drop-layers in a run of their own');
  const method = SPARSE_METHODS.find(name => name === (options.method ?? 'wanda'));
  if (method === undefined) throw invalid('method', `with --sparsity it is one of ${SPARSE_METHODS.join(', ')}`);
  const plan = { sparsity: sparsityOf(options.sparsity!), method, ...(options.seed && { seed: options.seed }) };
  let norms: ReadonlyMap<string, Float64Array> = new Map();
  if (method === 'wanda') {
    ensureNative();
    const { loadEngineModel } = await import('../learn/model/engine/index.ts');
    const engine = loadEngineModel(checkpoint);
    try {
      norms = wandaNorms(engine, checkpoint.weights, sequences, plan, {
        onLayer: (done, total) => say('layer', done, total),
      });
    } finally {
      engine.dispose();
    }
  }
  const parts = { ...checkpoint, weights: sparsify(checkpoint.weights, plan, norms) };
  const written = await writeModelGguf(parts, options.out, { type: 'f16', source: checkpoint });
  return {
    out: options.out,
    sha256: written.sha256,
    size_mb: megabytes(written.bytes),
    size_mb_before: megabytes(statSync(path).size),
    notes: [
      'zeros keep the shapes: no dense runtime gets faster or smaller by them; --ffn and --drop-layers do',
      'stored as f16, which holds zeros exactly',
      ...written.notes,
    ],
  };
}

export async function quantize(options: { model: string; type: string; out: string }): Promise<Compressed> {
  const path = await modelPath(options.model);
  const checkpoint = await openModel(path);
  const written = await quantizeModel(checkpoint, options.out, { type: options.type, source: checkpoint });
  return {
    out: options.out,
    sha256: written.sha256,
    size_mb: megabytes(written.bytes),
    size_mb_before: megabytes(statSync(path).size),
    tensors: written.types,
    notes: written.notes,
  };
}
