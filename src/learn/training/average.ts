import { LearndError } from '../../base/errors.ts';
import type { HostTensor } from '../model/types.ts';
import { type Tensor, tensorflow } from '../tensor/backend.ts';
import type { Parameters } from './optimizer.ts';

/**
 * Exponential moving average of iterates: of private training free, being a function of released iterates alone. Noise of single
 * steps averages out of it. The decay warms up, min(decay, (1 + t) / (10 + t)), so that a start that was only a start is forgotten.
 */
export class RunningAverage {
  readonly tensors = new Map<string, Tensor>();
  readonly #decay: number;
  #steps = 0;

  /** @param decay from 0 (the last iterate) to below 1: about the last 1 / (1 - decay) iterates count */
  constructor(decay: number) {
    if (!(decay >= 0 && decay < 1))
      throw new LearndError('invalid', `the decay of the average must lie from 0 to below 1, not ${decay}`, {
        field: 'ema',
      });
    this.#decay = decay;
  }

  /** Takes in the iterate after a step. */
  add(parameters: Parameters): void {
    const tf = tensorflow();
    this.#steps += 1;
    const decay = this.#steps === 1 ? 0 : Math.min(this.#decay, (1 + this.#steps) / (10 + this.#steps));
    for (const key of parameters.keys()) {
      const value = parameters.get(key);
      const old = this.tensors.get(key);
      this.tensors.set(
        key,
        tf.tidy(() =>
          tf.keep(old === undefined ? tf.add(value, 0) : tf.add(tf.mul(old, decay), tf.mul(value, 1 - decay))),
        ),
      );
      old?.dispose();
    }
  }

  /** Makes the average the parameters; it is empty afterwards. */
  moveInto(parameters: Parameters): void {
    for (const [key, tensor] of this.tensors) parameters.set(key, tensor);
    this.tensors.clear();
  }

  restore(tensors: ReadonlyMap<string, HostTensor>, steps: number): void {
    const tf = tensorflow();
    for (const [key, { data, shape }] of tensors) this.tensors.set(key, tf.keep(tf.tensor(data, [...shape])));
    this.#steps = steps;
  }

  dispose(): void {
    for (const tensor of this.tensors.values()) tensor.dispose();
    this.tensors.clear();
  }
}
