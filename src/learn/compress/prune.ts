import { invalid } from '../../base/errors.ts';
import { EditedWeights, type Origin } from '../model/formats/raw-weights.ts';
import type { HostTensor, ModelConfig, WeightSource } from '../model/types.ts';
import { unevenWidths } from './scores.ts';

/** What a model's parts matter, measured on public text (scores from private text would be a release of it). */
export interface Importance {
  /** For each layer a score of each feed-forward neuron (scores.ts). [layers][ffn] */
  readonly ffn: readonly Float32Array[];
  /** Each neuron's mean activation: what pruned ones gave is added to down_proj's bias (FLAP, 2312.11983). [layers][ffn] */
  readonly compensation?: readonly ArrayLike<number>[];
  /** For each layer 1 - E cos(h in, h out), the block influence (ShortGPT, 2403.03853). [layers] */
  readonly blockInfluence: Float32Array;
}

export interface PrunePlan {
  /** Feed-forward neurons kept in each layer; a layer that has fewer is left as it is. */
  readonly ffn?: number;
  /** `ffn` is the layers' average: each keeps as many as its scores, compared with the other layers', are worth. */
  readonly uneven?: boolean;
  /** Whole layers dropped, those of lowest influence; never the first or the last. */
  readonly dropLayers?: number;
  /** The layers to drop, by number, instead of `dropLayers`. */
  readonly layers?: readonly number[];
}

export interface PrunedModel {
  readonly config: ModelConfig;
  readonly weights: EditedWeights;
  /** Numbers of the layers kept, in the old model. */
  readonly keptLayers: readonly number[];
  /** Parameters before and after. */
  readonly parameters: readonly [number, number];
}

/** A width must be whole blocks of the 32-weight quantizations; multiples of 256 keep k-quants and vector units full. */
const FFN_STEP = 32;

const DOWN_BIAS = 'mlp.down_proj.bias';

/**
 * Makes a smaller dense model: real shapes shrink, so it is smaller on disk and faster everywhere. Rows of gate and up are
 * taken as stored, columns of down are made anew (its quantized blocks run across the neurons), all else is untouched.
 * Nothing is retrained: expect the perplexity to rise, much so beyond 10% of the width or 2 layers of a 135M model.
 */
export function prune(
  model: { config: ModelConfig; weights: WeightSource },
  importance: Importance,
  plan: PrunePlan,
): PrunedModel {
  const { config, weights } = model;
  check(config, importance, plan);
  const dropped = new Set(plan.layers ?? lowestInner(importance.blockInfluence, plan.dropLayers ?? 0));
  const keptLayers = Array.from({ length: config.layers }, (_, n) => n).filter(n => !dropped.has(n));
  const widths = widthsOf(config, importance, plan, keptLayers);
  const downBias = config.downBias || (plan.ffn !== undefined && importance.compensation !== undefined);
  const origins = new Map<string, Origin>();
  const ffn: number[] = [];
  for (const name of weights.names()) {
    if (!name.startsWith('model.layers.')) origins.set(name, { kind: 'same', name });
  }
  for (const [to, from] of keptLayers.entries()) {
    const width = widths[to]!;
    const kept = width === config.ffn[from] ? undefined : keepNeurons(importance.ffn[from]!, width);
    ffn.push(width);
    const prefix = `model.layers.${from}.`;
    for (const name of weights.names()) {
      if (!name.startsWith(prefix)) continue;
      const part = name.slice(prefix.length);
      if (part === DOWN_BIAS) continue;
      origins.set(`model.layers.${to}.${part}`, originOf(weights, name, part, kept));
    }
    if (downBias) {
      const had = config.downBias ? `${prefix}${DOWN_BIAS}` : undefined;
      origins.set(`model.layers.${to}.${DOWN_BIAS}`, {
        kind: 'made',
        shape: [config.hidden],
        make: () => compensated(weights, from, had, kept, importance.compensation?.[from]),
      });
    }
  }
  const pruned: ModelConfig = { ...config, layers: keptLayers.length, ffn, ...(downBias && { downBias }) };
  const edited = new EditedWeights(weights, origins);
  return { config: pruned, weights: edited, keptLayers, parameters: [parameters(weights), parameters(edited)] };
}

/** What of a plan can be seen without looking at a text. @throws LearndError('invalid') */
export function checkShape(config: ModelConfig, plan: PrunePlan): void {
  const { ffn: width, dropLayers: drop, layers } = plan;
  const widest = Math.max(...config.ffn);
  if (width === undefined && drop === undefined && layers === undefined)
    throw invalid('prune', 'say ffn, drop_layers or both');
  for (const n of layers ?? []) {
    if (!Number.isInteger(n) || n < 1 || n > config.layers - 2)
      throw invalid(
        'layers',
        `layer ${n} is not between 1 and ${config.layers - 2}: the first and the last layer stay`,
      );
  }
  if (width !== undefined && (!Number.isInteger(width) || width < FFN_STEP || width % FFN_STEP !== 0)) {
    throw invalid('ffn', `${width} is not a multiple of ${FFN_STEP}`, {
      hint: `Keep a multiple of 256 where you can, below the model's ${widest}.`,
    });
  }
  if (width !== undefined && width > widest) throw invalid('ffn', `${width} is more than the model's ${widest}`);
  const most = Math.max(0, config.layers - 2);
  if (drop !== undefined && (!Number.isInteger(drop) || drop < 0 || drop > most)) {
    throw invalid('drop_layers', `${drop} is not between 0 and ${most}: the first and the last layer stay`);
  }
}

function check(config: ModelConfig, importance: Importance, plan: PrunePlan): void {
  checkShape(config, plan);
  const { ffn: width, dropLayers: drop } = plan;
  if (drop !== undefined && importance.blockInfluence.length !== config.layers) {
    throw invalid('importance.blockInfluence', `has ${importance.blockInfluence.length} of ${config.layers} layers`);
  }
  if (width === undefined) return;
  for (const [n, neurons] of config.ffn.entries()) {
    const scores = importance.ffn[n];
    if (scores?.length !== neurons || scores.some(s => !Number.isFinite(s))) {
      throw invalid('importance.ffn', `layer ${n} needs ${neurons} finite scores`);
    }
  }
}

/** The `count` inner layers of lowest influence. */
function lowestInner(influence: Float32Array, count: number): number[] {
  const inner = Array.from({ length: influence.length - 2 }, (_, i) => i + 1);
  return inner.sort((a, b) => influence[a]! - influence[b]! || a - b).slice(0, count);
}

/** The width of each layer kept. */
function widthsOf(
  config: ModelConfig,
  importance: Importance,
  plan: PrunePlan,
  keptLayers: readonly number[],
): number[] {
  const old = keptLayers.map(n => config.ffn[n]!);
  if (plan.ffn === undefined) return old;
  if (!plan.uneven) return old.map(width => Math.min(plan.ffn!, width));
  return unevenWidths(
    keptLayers.map(n => importance.ffn[n]!),
    Math.min(plan.ffn, Math.floor(old.reduce((a, b) => a + b, 0) / old.length)),
    FFN_STEP,
  );
}

/** down_proj's bias with the mean contribution of the neurons that are not kept: W[:, pruned] mean(X[pruned]). */
function compensated(
  weights: WeightSource,
  layer: number,
  had: string | undefined,
  kept: Int32Array | undefined,
  means: ArrayLike<number> | undefined,
): HostTensor {
  const { shape, data } = weights.read(`model.layers.${layer}.mlp.down_proj.weight`);
  const [rows, width] = shape as [number, number];
  const bias = had === undefined ? new Float32Array(rows) : Float32Array.from(weights.read(had).data);
  if (kept === undefined || means === undefined) return { shape: [rows], data: bias };
  const gone = Float64Array.from({ length: width }, (_, j) => means[j]!);
  for (const j of kept) gone[j] = 0;
  for (let r = 0; r < rows; r++) {
    let sum = bias[r]!;
    for (let j = 0; j < width; j++) sum += data[r * width + j]! * gone[j]!;
    bias[r] = sum;
  }
  return { shape: [rows], data: bias };
}

/** The `count` neurons of highest score, in their old order. */
function keepNeurons(scores: Float32Array, count: number): Int32Array {
  const order = Array.from(scores.keys()).sort((a, b) => scores[b]! - scores[a]! || a - b);
  return Int32Array.from(order.slice(0, count)).sort();
}

function originOf(weights: WeightSource, name: string, part: string, kept: Int32Array | undefined): Origin {
  if (kept === undefined) return { kind: 'same', name };
  if (part === 'mlp.gate_proj.weight' || part === 'mlp.up_proj.weight') return { kind: 'rows', name, rows: kept };
  if (part !== 'mlp.down_proj.weight') return { kind: 'same', name };
  const shape = [weights.shape(name)[0]!, kept.length];
  return { kind: 'made', shape, make: () => gatherColumns(weights.read(name), kept), like: name };
}

function gatherColumns(tensor: HostTensor, columns: Int32Array): HostTensor {
  const [rows, width] = tensor.shape as [number, number];
  const data = new Float32Array(rows * columns.length);
  for (let r = 0, o = 0; r < rows; r++) {
    const from = r * width;
    for (let c = 0; c < columns.length; c++) data[o++] = tensor.data[from + columns[c]!]!;
  }
  return { shape: [rows, columns.length], data };
}

function parameters(weights: WeightSource): number {
  return weights.names().reduce((sum, name) => sum + weights.shape(name).reduce((a, b) => a * b, 1), 0);
}
