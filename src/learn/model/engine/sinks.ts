import { LearndError } from '../../../base/errors.ts';
import type { Tensor } from '../../tensor/backend.ts';
import { tensorflow } from '../../tensor/backend.ts';
import { batchMatMul, matMul } from '../../tensor/native.ts';
import type { GradientSink, LoraParts } from './ops.ts';

/** Keys of an adapter's two matrices among the trainable parameters. */
export const loraA = (weightName: string): string => `${weightName}.lora_a`;
export const loraB = (weightName: string): string => `${weightName}.lora_b`;

/** Gradients by parameter key. Whoever holds the map disposes its tensors. */
export type Gradients = Map<string, Tensor>;

export function disposeGradients(gradients: Gradients): void {
  for (const tensor of gradients.values()) tensor.dispose();
  gradients.clear();
}

/** Adds `addition` into the map's tensor of that key; takes nothing over: `addition` stays the caller's. */
export function accumulate(gradients: Gradients, key: string, addition: Tensor): void {
  const tf = tensorflow();
  const old = gradients.get(key);
  gradients.set(key, tf.keep(old === undefined ? tf.clone(addition) : tf.add(old, addition)));
  old?.dispose();
}

/** Gradients summed over all rows (whatever weight the loss gave them), for the wanted keys. */
export class SumSink implements GradientSink {
  readonly gradients: Gradients = new Map();
  readonly #wanted: ReadonlySet<string>;
  constructor(wanted: ReadonlySet<string>) {
    this.#wanted = wanted;
  }
  weight(name: string, x: () => Tensor, dy: Tensor): void {
    if (this.#wanted.has(name)) accumulate(this.gradients, name, matMul(dy, x(), true));
  }
  weights(layers: readonly { name: string; dy: Tensor }[], x: () => Tensor): void {
    for (const { name, dy } of layers) this.weight(name, x, dy);
  }
  weightGradient(name: string, gradient: Tensor): void {
    if (this.#wanted.has(name)) accumulate(this.gradients, name, gradient);
  }
  bias(name: string, dy: Tensor): void {
    if (this.#wanted.has(name)) accumulate(this.gradients, name, tensorflow().sum(dy, 0));
  }
  scale(name: string, dy: Tensor, unit: Tensor): void {
    const tf = tensorflow();
    if (this.#wanted.has(name)) accumulate(this.gradients, name, tf.sum(tf.mul(dy, unit), 0));
  }
  lora(name: string, parts: LoraParts): void {
    if (!this.#wanted.has(loraA(name))) return;
    accumulate(this.gradients, loraA(name), matMul(parts.dyb, parts.x, true));
    accumulate(this.gradients, loraB(name), matMul(parts.dy, parts.xa, true));
  }
}

/**
 * Gradients of each privacy unit apart: [units, parameters]. A unit's sequences are added up BEFORE anything is squared,
 * so the cross terms between them count (summing squared norms of sequences would be wrong in both directions).
 * For parameters that are small (norm scales, biases, LoRA); matrices of the model are materialised a unit at a time instead.
 */
export class UnitSink implements GradientSink {
  readonly gradients: Gradients = new Map();
  readonly #wanted: ReadonlySet<string>;
  readonly #batch: number;
  readonly #length: number;
  /** [batch], the unit of each sequence, or undefined when sequence i is unit i. */
  readonly #membership: Int32Array | undefined;
  readonly #units: number;

  constructor(
    wanted: ReadonlySet<string>,
    shape: { batch: number; length: number },
    unitOfSequence: Int32Array,
    units: number,
  ) {
    this.#wanted = wanted;
    this.#batch = shape.batch;
    this.#length = shape.length;
    this.#units = units;
    if (units !== shape.batch || unitOfSequence.some((unit, i) => unit !== i)) this.#membership = unitOfSequence;
  }

  dispose(): void {
    disposeGradients(this.gradients);
  }

  weight(name: string): void {
    if (this.#wanted.has(name))
      throw new LearndError(
        'internal',
        `per-unit gradients of the matrix ${name} are to be materialised a unit at a time`,
      );
  }
  weights(layers: readonly { name: string }[]): void {
    for (const { name } of layers) this.weight(name);
  }
  weightGradient(name: string): void {
    this.weight(name);
  }
  bias(name: string, dy: Tensor): void {
    if (this.#wanted.has(name)) this.#add(name, tensorflow().sum(this.#bySequence(dy), 1));
  }
  scale(name: string, dy: Tensor, unit: Tensor): void {
    const tf = tensorflow();
    if (this.#wanted.has(name)) this.#add(name, tf.sum(this.#bySequence(tf.mul(dy, unit)), 1));
  }
  lora(name: string, parts: LoraParts): void {
    if (!this.#wanted.has(loraA(name))) return;
    const [x, xa, dy, dyb] = [parts.x, parts.xa, parts.dy, parts.dyb].map(t => this.#bySequence(t)) as [
      Tensor,
      Tensor,
      Tensor,
      Tensor,
    ];
    this.#add(loraA(name), batchMatMul(dyb, x, true));
    this.#add(loraB(name), batchMatMul(dy, xa, true));
  }

  #bySequence(rows: Tensor): Tensor {
    return tensorflow().reshape(rows, [this.#batch, this.#length, rows.shape[1]!]);
  }

  #add(key: string, perSequence: Tensor): void {
    const tf = tensorflow();
    const flat = tf.reshape(perSequence, [this.#batch, perSequence.size / this.#batch]);
    // A segment sum and no product with 0 and 1: what is not finite in one unit must not reach another (0 * NaN is NaN).
    const sums =
      this.#membership === undefined
        ? flat
        : tf.unsortedSegmentSum(flat, tf.tensor1d(this.#membership, 'int32'), this.#units);
    accumulate(this.gradients, key, sums);
  }
}
