import type { Tensor } from '../../tensor/backend.ts';
import { tensorflow } from '../../tensor/backend.ts';
import { matMul, rollLast } from '../../tensor/native.ts';
import type { EngineAdapter, EngineModel } from './model.ts';
import { layerName } from './model.ts';

/**
 * The parts of a block, each forward with what its backward needs. Rows are tokens: [rows, features] with rows = batch x
 * length. Every function makes tensors that the caller's `tf.tidy` collects.
 */

/** RMSNorm: y = x / sqrt(mean(x^2) + eps) * scale. `unit` is the normalised x before the scale, `inverse` [rows, 1] the divisor. */
export function rmsNorm(x: Tensor, scale: Tensor, eps: number): { y: Tensor; unit: Tensor; inverse: Tensor } {
  const tf = tensorflow();
  const inverse = tf.rsqrt(tf.add(tf.mean(tf.square(x), -1, true), eps));
  const unit = tf.mul(x, inverse);
  return { y: tf.mul(unit, scale), unit, inverse };
}

/** dx of RMSNorm: inverse * (g - unit * mean(g * unit)) with g = dy * scale. */
export function rmsNormBackward(dy: Tensor, scale: Tensor, saved: { unit: Tensor; inverse: Tensor }): Tensor {
  const tf = tensorflow();
  const g = tf.mul(dy, scale);
  const along = tf.mean(tf.mul(g, saved.unit), -1, true);
  return tf.mul(tf.sub(g, tf.mul(saved.unit, along)), saved.inverse);
}

/** The two halves of the last axis exchanged. */
const swapHalves = (x: Tensor): Tensor => rollLast(x, x.shape.at(-1)! / 2);

/** Rotate-half RoPE on [batch, heads, length, headDim] with tables [length, headDim]. */
export function rotate(x: Tensor, cos: Tensor, sin: Tensor): Tensor {
  const tf = tensorflow();
  return tf.add(tf.mul(x, cos), tf.mul(swapHalves(x), sin));
}

/** The transpose of `rotate`: swapping halves is its own inverse, applied after the product instead of before. */
export function rotateBackward(dy: Tensor, cos: Tensor, sin: Tensor): Tensor {
  const tf = tensorflow();
  return tf.add(tf.mul(dy, cos), swapHalves(tf.mul(dy, sin)));
}

/** [batch * length, heads * dim] -> [batch, heads, length, dim]. */
export function splitHeads(x: Tensor, batch: number, length: number, heads: number, dim: number): Tensor {
  const tf = tensorflow();
  return tf.transpose(tf.reshape(x, [batch, length, heads, dim]), [0, 2, 1, 3]);
}

/** [batch, heads, length, dim] -> [batch * length, heads * dim]. */
export function joinHeads(x: Tensor, batch: number, length: number, heads: number, dim: number): Tensor {
  const tf = tensorflow();
  return tf.reshape(tf.transpose(tf.reshape(x, [batch, heads, length, dim]), [0, 2, 1, 3]), [
    batch * length,
    heads * dim,
  ]);
}

/** Scored rows `at` .. of the vocabulary head: dW = gradient^T (h * weights). */
export interface HeadPart {
  readonly at: number;
  /** [rows, hidden], the head's input. */
  readonly h: Tensor;
  /** [rows, 1], the rows' weights in the loss. */
  readonly weights: Tensor;
  /** [rows, vocabSize], of the unweighted loss with respect to the logits. */
  readonly gradient: Tensor;
  /** Computes `gradient` once more, from `h`. */
  again(h: Tensor): Tensor;
}

/** What a LoRA pair's gradients come from: dB = dy^T xa, dA = dyb^T x. */
export interface LoraParts {
  readonly x: Tensor;
  /** scale * x A^T, [rows, rank]. */
  readonly xa: Tensor;
  readonly dy: Tensor;
  /** scale * dy B, [rows, rank]. */
  readonly dyb: Tensor;
}

/** Where gradients of a block's parameters go. The tensors given are collected by the caller's tidy: keep what is to last. */
export interface GradientSink {
  /** A linear layer's weight: dW = dy^T x. `x` is made when asked for: most methods do not train most weights. */
  weight(name: string, x: () => Tensor, dy: Tensor): void;
  /** Weights of several layers that share the input `x`. */
  weights(layers: readonly { readonly name: string; readonly dy: Tensor }[], x: () => Tensor): void;
  /** The vocabulary head, a chunk of scored rows at a time; without it the head's weight comes as `weight`. */
  head?(name: string, part: HeadPart): void;
  /** Where chunks of the scored rows must end, when each may have about `most` rows; without it, every `most` rows. */
  headEnds?(most: number): readonly number[];
  /** The embedding: `d` [batch * length, hidden] is the gradient at its output; without it, it comes summed as `weightGradient`. */
  embedding?(name: string, d: Tensor): void;
  /** A weight's gradient that comes ready made (the embedding's). */
  weightGradient(name: string, gradient: Tensor): void;
  bias(name: string, dy: Tensor): void;
  /** An RMSNorm scale: d = sum over rows of dy * unit. */
  scale(name: string, dy: Tensor, unit: Tensor): void;
  lora(name: string, parts: LoraParts): void;
}

const hasBias = ({ config }: EngineModel, kind: string): boolean =>
  kind === 'mlp.down_proj' ? config.downBias === true : config.attentionBias && /[qkv]_proj$/.test(kind);

/** y = x W^T (+ bias) (+ scale (x A^T) B^T). */
export function linear(
  model: EngineModel,
  adapter: EngineAdapter | undefined,
  layer: number,
  kind: string,
  x: Tensor,
): Tensor {
  const tf = tensorflow();
  const name = layerName(layer, `${kind}.weight`);
  let y = matMul(x, model.parameter(name), false, true);
  if (hasBias(model, kind)) y = tf.add(y, model.parameter(layerName(layer, `${kind}.bias`)));
  const pair = adapter?.pairs.get(name);
  if (pair !== undefined)
    y = tf.add(y, matMul(matMul(x, pair.a, false, true), tf.mul(pair.b, adapter!.scale), false, true));
  return y;
}

/** One of the linear layers that share an input, and the gradient at its output. */
export interface Branch {
  readonly kind: string;
  readonly dy: Tensor;
}

/**
 * dx of linear layers that share the input `x`, their parameters' gradients going to `sink`.
 */
export function linearBackward(
  model: EngineModel,
  adapter: EngineAdapter | undefined,
  layer: number,
  branches: readonly Branch[],
  x: () => Tensor,
  sink: GradientSink,
): Tensor {
  const tf = tensorflow();
  const names = branches.map(({ kind }) => layerName(layer, `${kind}.weight`));
  const parts = branches.map(({ dy }, i) => matMul(dy, model.parameter(names[i]!)));
  sink.weights(
    branches.map(({ dy }, i) => ({ name: names[i]!, dy })),
    x,
  );
  branches.forEach(({ kind, dy }, i) => {
    if (hasBias(model, kind)) sink.bias(layerName(layer, `${kind}.bias`), dy);
    const pair = adapter?.pairs.get(names[i]!);
    if (pair === undefined) return;
    const scale = adapter!.scale;
    const dyb = matMul(dy, tf.mul(pair.b, scale));
    // x A^T is made again rather than kept: rank columns of one product against a saved tensor a linear layer.
    const input = x();
    const xa = matMul(input, tf.mul(pair.a, scale), false, true);
    sink.lora(names[i]!, { x: input, xa, dy, dyb });
    parts.push(matMul(dyb, pair.a));
  });
  return parts.length === 1 ? parts[0]! : tf.addN(parts);
}
