import { invalid } from '../../base/errors.ts';
import { blockForward } from '../model/engine/block.ts';
import { embed } from '../model/engine/forward.ts';
import { type EngineModel, LINEAR_KINDS, layerName } from '../model/engine/index.ts';
import { EditedWeights } from '../model/formats/raw-weights.ts';
import type { HostTensor, WeightSource } from '../model/types.ts';
import type { Tensor } from '../tensor/backend.ts';
import { tensorflow } from '../tensor/backend.ts';
import { randomScores } from './scores.ts';
import { calibrationBatches } from './statistics.ts';

/**
 * Zeros in the linear layers of the blocks, shapes unchanged. For comparison with the literature only: no dense runtime gets
 * faster or smaller by zeros (locuslab/wanda issue 81, llama.cpp issue 931), unlike by fewer neurons or layers.
 */
export interface SparsityPlan {
  /** The share of each matrix that becomes zero, or 2 of every 4 neighbours in a row. */
  readonly sparsity: number | '2:4';
  /**
   * wanda: |W_ij| ||X_j||_2, compared within a row (2306.11695); magnitude: |W_ij|, compared within the matrix; random.
   */
  readonly method: 'wanda' | 'magnitude' | 'random';
  readonly seed?: string;
}

export const SPARSE_METHODS = ['wanda', 'magnitude', 'random'] as const;

/** `0.5` or `2:4`, as the command line has it. */
export function sparsityOf(text: string): SparsityPlan['sparsity'] {
  if (text === '2:4') return text;
  const share = Number(text);
  if (!(share > 0 && share < 1)) throw invalid('sparsity', `'${text}' is neither 2:4 nor a share between 0 and 1`);
  return share;
}

type Kind = (typeof LINEAR_KINDS)[number];

/** sum X_j^2 over the calibration tokens, by linear weight name; undefined for the methods that do not look at them. */
export type InputNorms = ReadonlyMap<string, Float64Array>;

/** The weights with zeros in them, each matrix made when it is read. `norms` are those that `wandaNorms` gave. */
export function sparsify(weights: WeightSource, plan: SparsityPlan, norms: InputNorms = new Map()): EditedWeights {
  if (plan.sparsity !== '2:4' && !(plan.sparsity > 0 && plan.sparsity < 1))
    throw invalid('sparsity', `${plan.sparsity} is not between 0 and 1`);
  return EditedWeights.made(weights, name => {
    if (!/^model\.layers\.\d+\..*_proj\.weight$/.test(name)) return undefined;
    return () => zeroed(name, weights.read(name), plan, norms.get(name));
  });
}

function zeroed(name: string, tensor: HostTensor, plan: SparsityPlan, norms: Float64Array | undefined): HostTensor {
  const [rows, columns] = tensor.shape as [number, number];
  const scores = scoresOf(name, tensor, plan, norms);
  const data = Float32Array.from(tensor.data);
  if (plan.sparsity === '2:4') {
    if (columns % 4 !== 0) throw invalid('sparsity', `${name} has rows of ${columns}, not of groups of 4`);
    for (let at = 0; at < data.length; at += 4) zeroLowest(data, scores, at, at + 4, 2);
  } else if (plan.method === 'wanda') {
    const each = Math.floor(columns * plan.sparsity);
    for (let r = 0; r < rows; r++) zeroLowest(data, scores, r * columns, (r + 1) * columns, each);
  } else zeroLowest(data, scores, 0, data.length, Math.floor(data.length * plan.sparsity));
  return { shape: tensor.shape, data };
}

function scoresOf(
  name: string,
  { shape, data }: HostTensor,
  plan: SparsityPlan,
  norms: Float64Array | undefined,
): Float32Array {
  if (plan.method === 'magnitude') return data.map(Math.abs);
  if (plan.method === 'random') {
    return randomScores(data.length, plan.seed, name);
  }
  if (norms === undefined) throw invalid('calibration', `wanda needs calibration text (${name} has no input norms)`);
  const columns = shape[1]!;
  const roots = norms.map(Math.sqrt);
  return data.map((w, i) => Math.abs(w) * roots[i % columns]!);
}

/** Zeroes the `count` entries of lowest score between two places; of equal ones the first. */
function zeroLowest(data: Float32Array, scores: Float32Array, from: number, to: number, count: number): void {
  if (to - from === 4) {
    for (let k = 0; k < count; k++) {
      let lowest = -1;
      for (let i = from; i < to; i++)
        if (scores[i]! !== Number.POSITIVE_INFINITY && (lowest < 0 || scores[i]! < scores[lowest]!)) lowest = i;
      data[lowest] = 0;
      scores[lowest] = Number.POSITIVE_INFINITY;
    }
    return;
  }
  const threshold = scores.slice(from, to).sort()[count];
  let left = count;
  for (let i = from; i < to && left > 0; i++)
    if (threshold === undefined || scores[i]! < threshold) {
      data[i] = 0;
      left--;
    }
  for (let i = from; i < to && left > 0; i++)
    if (scores[i] === threshold) {
      data[i] = 0;
      left--;
    }
}

/**
 * The input norms Wanda wants, block by block, each block's inputs coming from the blocks before it as they are pruned
 * (locuslab/wanda lib/prune.py). Leaves `model`'s weights pruned by `plan`. Holds the hidden states of the whole calibration text.
 */
export function wandaNorms(
  model: EngineModel,
  weights: WeightSource,
  sequences: readonly (readonly number[])[],
  plan: SparsityPlan,
  options: { onLayer?: (done: number, total: number) => void } = {},
): Map<string, Float64Array> {
  const tf = tensorflow();
  const batches = calibrationBatches(model, sequences);
  const states = batches.map(({ batch }) => embed(model, batch));
  const norms = new Map<string, Float64Array>();
  for (let layer = 0; layer < model.config.layers; layer++) {
    for (const [n, { batch, real }] of batches.entries()) {
      tf.tidy(() => {
        const { inner, saved } = blockForward(model, undefined, layer, states[n]!, batch);
        const mask = tf.tensor2d(real, [real.length, 1]);
        const scaled = (unit: Tensor, norm: string) => tf.mul(unit, model.parameter(layerName(layer, norm)));
        const attention = scaled(saved.unit1, 'input_layernorm.weight');
        const feedForward = scaled(saved.unit2, 'post_attention_layernorm.weight');
        const add = (x: Tensor, kinds: readonly Kind[]): void => {
          const sums = tf.sum(tf.mul(tf.square(x), mask), 0).dataSync();
          for (const kind of kinds) {
            const name = layerName(layer, `${kind}.weight`);
            const into = norms.get(name) ?? new Float64Array(sums.length);
            for (let j = 0; j < into.length; j++) into[j]! += sums[j]!;
            norms.set(name, into);
          }
        };
        add(attention, ['self_attn.q_proj', 'self_attn.k_proj', 'self_attn.v_proj']);
        add(saved.context, ['self_attn.o_proj']);
        add(feedForward, ['mlp.gate_proj', 'mlp.up_proj']);
        add(inner, ['mlp.down_proj']);
      });
    }
    for (const kind of LINEAR_KINDS) {
      const name = layerName(layer, `${kind}.weight`);
      const { data, shape } = zeroed(name, weights.read(name), plan, norms.get(name));
      model.setParameter(
        name,
        tf.tidy(() => tf.keep(tf.add(tf.tensor(data, [...shape], 'float32'), 0))),
      );
    }
    for (const [n, { batch }] of batches.entries()) {
      const next = tf.tidy(() => blockForward(model, undefined, layer, states[n]!, batch).y);
      states[n]!.dispose();
      states[n] = next;
    }
    options.onLayer?.(layer + 1, model.config.layers);
  }
  for (const state of states) state.dispose();
  return norms;
}
