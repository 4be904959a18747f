import type { Tensor } from '../../tensor/backend.ts';
import { tensorflow } from '../../tensor/backend.ts';
import { batchMatMul, sigmoidGradient } from '../../tensor/native.ts';
import type { EngineAdapter, EngineModel } from './model.ts';
import { layerName } from './model.ts';
import type { Branch, GradientSink } from './ops.ts';
import {
  joinHeads,
  linear,
  linearBackward,
  rmsNorm,
  rmsNormBackward,
  rotate,
  rotateBackward,
  splitHeads,
} from './ops.ts';

/**
 * What a block keeps for its backward pass, disposed by whoever runs that. The inputs of the linear layers (a norm's output,
 * the feed-forward product) are made again from these when a method trains what they enter: a third less memory.
 */
export type Saved = Record<
  'unit1' | 'inverse1' | 'q' | 'k' | 'v' | 'probabilities' | 'context' | 'unit2' | 'inverse2' | 'gate' | 'up',
  Tensor
>;

export interface BlockShape {
  readonly batch: number;
  readonly length: number;
  /** `TokenBatch.mask`; absent: causal. */
  readonly mask?: Float32Array;
}

/**
 * One decoder block on rows [batch * length, hidden]. Right-padded sequences need no mask beyond the causal one: a real
 * position never looks at a later one, and a padded position's output carries no loss.
 * @returns the block's output, the input of down_proj, and what `blockBackward` needs. Not inside a tidy of its own: the caller's.
 */
export function blockForward(
  model: EngineModel,
  adapter: EngineAdapter | undefined,
  layer: number,
  x: Tensor,
  { batch, length, mask }: BlockShape,
): { y: Tensor; inner: Tensor; saved: Saved } {
  const tf = tensorflow();
  const { heads, kvHeads, headDim, rmsEps } = model.config;
  const group = heads / kvHeads;
  const rope = model.rope(length);

  const norm1 = rmsNorm(x, model.parameter(layerName(layer, 'input_layernorm.weight')), rmsEps);
  const project = (kind: string, count: number) =>
    splitHeads(linear(model, adapter, layer, kind, norm1.y), batch, length, count, headDim);
  // Query heads that share a key head are stacked along the length: one product a key head, no copies of keys or values.
  const q = tf.reshape(rotate(project('self_attn.q_proj', heads), rope.qCos, rope.qSin), [
    batch * kvHeads,
    group * length,
    headDim,
  ]);
  const k = tf.reshape(rotate(project('self_attn.k_proj', kvHeads), rope.kCos, rope.kSin), [
    batch * kvHeads,
    length,
    headDim,
  ]);
  const v = tf.reshape(project('self_attn.v_proj', kvHeads), [batch * kvHeads, length, headDim]);
  const products = batchMatMul(q, k, false, true);
  const scores =
    mask === undefined
      ? tf.add(tf.reshape(products, [batch * heads, length, length]), model.causalMask(length))
      : tf.add(tf.reshape(products, [batch, heads, length, length]), tf.tensor4d(mask, [batch, 1, length, length]));
  const softmax = tf.softmax(scores);
  const probabilities = tf.reshape(softmax, [batch * kvHeads, group * length, length]);
  const context = joinHeads(batchMatMul(probabilities, v), batch, length, heads, headDim);
  const middle = tf.add(x, linear(model, adapter, layer, 'self_attn.o_proj', context));

  const { norm: norm2, gate, up, inner, y } = feedForward(model, adapter, layer, middle);
  const saved = {
    ...{ unit1: norm1.unit, inverse1: norm1.inverse, q, k, v, probabilities, context },
    ...{ unit2: norm2.unit, inverse2: norm2.inverse, gate, up },
  };
  return { y, inner, saved };
}

/** A block's second half, on rows of any kind: RMSNorm and SwiGLU beside `x` [rows, hidden]. */
export function feedForward(model: EngineModel, adapter: EngineAdapter | undefined, layer: number, x: Tensor) {
  const tf = tensorflow();
  const scale = model.parameter(layerName(layer, 'post_attention_layernorm.weight'));
  const norm = rmsNorm(x, scale, model.config.rmsEps);
  const gate = linear(model, adapter, layer, 'mlp.gate_proj', norm.y);
  const up = linear(model, adapter, layer, 'mlp.up_proj', norm.y);
  const inner = tf.mul(tf.mul(gate, tf.sigmoid(gate)), up);
  return { norm, gate, up, inner, y: tf.add(x, linear(model, adapter, layer, 'mlp.down_proj', inner)) };
}

/** The gradient with respect to the block's input, given that of its output; parameters' gradients go to `sink`. */
export function blockBackward(
  model: EngineModel,
  adapter: EngineAdapter | undefined,
  layer: number,
  dy: Tensor,
  saved: Saved,
  { batch, length }: BlockShape,
  sink: GradientSink,
): Tensor {
  const tf = tensorflow();
  const back: Back = (x, ...branches) => linearBackward(model, adapter, layer, branches, x, sink);
  const { gate, up } = saved;

  const sigmoid = tf.sigmoid(gate);
  const silu = tf.mul(gate, sigmoid);
  const dInner = back(() => tf.mul(silu, up), { kind: 'mlp.down_proj', dy });
  const dUp = tf.mul(dInner, silu);
  // silu'(g) = s + g s (1 - s)
  const dGate = tf.mul(tf.mul(dInner, up), tf.add(sigmoid, sigmoidGradient(sigmoid, gate)));
  const name2 = layerName(layer, 'post_attention_layernorm.weight');
  const h2 = once(() => tf.mul(saved.unit2, model.parameter(name2)));
  const dH2 = back(h2, { kind: 'mlp.gate_proj', dy: dGate }, { kind: 'mlp.up_proj', dy: dUp });
  sink.scale(name2, dH2, saved.unit2);
  const dMiddle = tf.add(
    dy,
    rmsNormBackward(dH2, model.parameter(name2), { unit: saved.unit2, inverse: saved.inverse2 }),
  );

  const name1 = layerName(layer, 'input_layernorm.weight');
  const h1 = once(() => tf.mul(saved.unit1, model.parameter(name1)));
  const dH1 = attentionBackward(model, back, h1, dMiddle, saved, { batch, length });
  sink.scale(name1, dH1, saved.unit1);
  return tf.add(dMiddle, rmsNormBackward(dH1, model.parameter(name1), { unit: saved.unit1, inverse: saved.inverse1 }));
}

/** Backward of linear layers that share an input, which is made when asked for. */
type Back = (x: () => Tensor, ...branches: Branch[]) => Tensor;

function once(make: () => Tensor): () => Tensor {
  let made: Tensor | undefined;
  return () => {
    made ??= make();
    return made;
  };
}

function attentionBackward(
  model: EngineModel,
  back: Back,
  h1: () => Tensor,
  dMiddle: Tensor,
  saved: Saved,
  { batch, length }: BlockShape,
): Tensor {
  const tf = tensorflow();
  const { heads, kvHeads, headDim } = model.config;
  const group = heads / kvHeads;
  const rope = model.rope(length);
  const dContext = back(() => saved.context, { kind: 'self_attn.o_proj', dy: dMiddle });
  const dHeads = tf.reshape(splitHeads(dContext, batch, length, heads, headDim), [
    batch * kvHeads,
    group * length,
    headDim,
  ]);
  const dV = batchMatMul(saved.probabilities, dHeads, true);
  const dP = batchMatMul(dHeads, saved.v, false, true);
  const weighted = tf.mul(dP, saved.probabilities);
  const dScores = tf.sub(weighted, tf.mul(saved.probabilities, tf.sum(weighted, -1, true)));
  const dQ = batchMatMul(dScores, saved.k);
  const dK = batchMatMul(dScores, saved.q, true);
  const unrotate = (d: Tensor, count: number, cos: Tensor, sin: Tensor) =>
    joinHeads(rotateBackward(tf.reshape(d, [batch, count, length, headDim]), cos, sin), batch, length, count, headDim);
  const dq = unrotate(dQ, heads, rope.qCos, rope.qSin);
  const dk = unrotate(dK, kvHeads, rope.kCos, rope.kSin);
  const dv = joinHeads(dV, batch, length, kvHeads, headDim);
  return back(
    h1,
    { kind: 'self_attn.q_proj', dy: dq },
    { kind: 'self_attn.k_proj', dy: dk },
    { kind: 'self_attn.v_proj', dy: dv },
  );
}
