import { invalid } from '../../base/errors.ts';
import { EditedWeights, type Origin } from '../model/formats/raw-weights.ts';
import type { HostTensor, ModelConfig, WeightSource } from '../model/types.ts';

/** What a model's parts matter, measured on public text (scores from private text would be a release of it). */
export interface Importance {
  /** For each layer a score of each feed-forward neuron, e.g. mean |activation| (Minitron, 2407.14679). [layers][ffn] */
  readonly ffn: readonly Float32Array[];
  /** For each layer 1 - E cos(h in, h out), the block influence (ShortGPT, 2403.03853). [layers] */
  readonly blockInfluence: Float32Array;
}

export interface PrunePlan {
  /** Feed-forward neurons kept in each layer; a layer that has fewer is left as it is. */
  readonly ffn?: number;
  /** Whole layers dropped, those of lowest influence; never the first or the last. */
  readonly dropLayers?: number;
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
  const keptLayers = keepLayers(config.layers, importance.blockInfluence, plan.dropLayers ?? 0);
  const origins = new Map<string, Origin>();
  const ffn: number[] = [];
  for (const name of weights.names()) {
    if (!name.startsWith('model.layers.')) origins.set(name, { kind: 'same', name });
  }
  for (const [to, from] of keptLayers.entries()) {
    const width = Math.min(plan.ffn ?? config.ffn[from]!, config.ffn[from]!);
    const kept = width === config.ffn[from] ? undefined : keepNeurons(importance.ffn[from]!, width);
    ffn.push(width);
    const prefix = `model.layers.${from}.`;
    for (const name of weights.names()) {
      if (!name.startsWith(prefix)) continue;
      const part = name.slice(prefix.length);
      origins.set(`model.layers.${to}.${part}`, originOf(weights, name, part, kept));
    }
  }
  const pruned: ModelConfig = { ...config, layers: keptLayers.length, ffn };
  const edited = new EditedWeights(weights, origins);
  return { config: pruned, weights: edited, keptLayers, parameters: [parameters(weights), parameters(edited)] };
}

function check(config: ModelConfig, importance: Importance, plan: PrunePlan): void {
  const { ffn: width, dropLayers: drop } = plan;
  const widest = Math.max(...config.ffn);
  if (width === undefined && drop === undefined) throw invalid('prune', 'say ffn, drop_layers or both');
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

/** Drops the `count` inner layers of lowest influence. */
function keepLayers(layers: number, influence: Float32Array, count: number): number[] {
  const inner = Array.from({ length: layers - 2 }, (_, i) => i + 1).sort(
    (a, b) => influence[a]! - influence[b]! || a - b,
  );
  const dropped = new Set(inner.slice(0, count));
  return Array.from({ length: layers }, (_, i) => i).filter(i => !dropped.has(i));
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
