import { LearndError } from '../../base/errors.ts';
import type { HostTensor } from '../model/types.ts';
import type { Tensor } from '../tensor/backend.ts';
import { tensorflow } from '../tensor/backend.ts';

export type OptimizerSettings =
  | {
      readonly kind: 'adam';
      readonly learningRate: number;
      readonly betas?: readonly [number, number];
      readonly epsilon?: number;
      /** Decoupled (AdamW, arXiv 1711.05101); applied to matrices only, as is usual. 0: plain Adam. */
      readonly weightDecay?: number;
    }
  | { readonly kind: 'sgd'; readonly learningRate: number; readonly momentum?: number };

/** Where an optimizer reads and writes the parameters it trains. `set` takes the new tensor over and disposes the old. */
export interface Parameters {
  keys(): Iterable<string>;
  get(key: string): Tensor;
  set(key: string, value: Tensor): void;
}

export interface Optimizer {
  /**
   * One update from `gradients` (by key, the parameters' shapes; not disposed). `rate` scales the learning rate (schedules).
   * @returns the L2 norm of the change when `measure`, else undefined.
   */
  step(
    parameters: Parameters,
    gradients: ReadonlyMap<string, Tensor>,
    rate?: number,
    measure?: boolean,
  ): number | undefined;
  /** What it carries from step to step, by reference: valid until the next step. */
  state(): OptimizerState;
  /** Goes on from a state read back. Copies it. @throws LearndError('internal') after a step has been taken */
  restore(state: { readonly steps: number; readonly tensors: ReadonlyMap<string, HostTensor> }): void;
  dispose(): void;
}

export interface OptimizerState {
  /** Updates made. */
  readonly steps: number;
  /** `first:` and `second:` moments, or `velocity:`, by parameter key. */
  readonly tensors: ReadonlyMap<string, Tensor>;
}

/** Adam, AdamW and SGD with momentum, in the order of operations that PyTorch uses. */
export function createOptimizer(settings: OptimizerSettings): Optimizer {
  if (!(Number.isFinite(settings.learningRate) && settings.learningRate > 0))
    throw new LearndError('invalid', `the learning rate must be above 0, not ${settings.learningRate}`, {
      field: 'learningRate',
    });
  return settings.kind === 'adam' ? adam(settings) : sgd(settings);
}

type State = Map<string, Tensor>;

function replaceState(state: State, key: string, value: Tensor): void {
  state.get(key)?.dispose();
  state.set(key, tensorflow().keep(value));
}

function optimizer(
  states: Readonly<Record<string, State>>,
  change: (key: string, value: Tensor, gradient: Tensor, rate: number, steps: number) => Tensor,
): Optimizer {
  let steps = 0;
  return {
    step: (parameters, gradients, rate = 1, measure = false) => {
      const tf = tensorflow();
      steps += 1;
      let square = 0;
      for (const key of parameters.keys()) {
        const gradient = gradients.get(key);
        if (gradient === undefined) throw new LearndError('internal', `no gradient for ${key}`);
        const value = parameters.get(key);
        const next = tf.tidy(() => tf.keep(change(key, value, gradient, rate, steps)));
        if (measure) square += tf.tidy(() => tf.sum(tf.square(tf.sub(next, value))).dataSync()[0]!);
        parameters.set(key, next);
      }
      return measure ? Math.sqrt(square) : undefined;
    },
    state: () => ({
      steps,
      tensors: new Map(
        Object.entries(states).flatMap(([name, state]) => [...state].map(([key, t]) => [`${name}:${key}`, t])),
      ),
    }),
    restore: from => {
      if (steps > 0)
        throw new LearndError('internal', 'an optimizer that has taken steps cannot take up another state');
      const tf = tensorflow();
      for (const [name, { data, shape }] of from.tensors) {
        const at = name.indexOf(':');
        const state = states[name.slice(0, at)];
        if (state === undefined) throw new LearndError('corrupt', `this optimizer keeps no ${name}`);
        replaceState(state, name.slice(at + 1), tf.tensor(data, [...shape]));
      }
      steps = from.steps;
    },
    dispose: () => {
      for (const state of Object.values(states)) {
        for (const tensor of state.values()) tensor.dispose();
        state.clear();
      }
    },
  };
}

function adam(settings: Extract<OptimizerSettings, { kind: 'adam' }>): Optimizer {
  const { learningRate, betas = [0.9, 0.999], epsilon = 1e-8, weightDecay = 0 } = settings;
  const [beta1, beta2] = betas;
  const first: State = new Map();
  const second: State = new Map();
  return optimizer({ first, second }, (key, value, gradient, rate, steps) => {
    const tf = tensorflow();
    const lr = learningRate * rate;
    const m0 = first.get(key);
    const v0 = second.get(key);
    const m = tf.add(tf.mul(m0 ?? tf.zerosLike(gradient), beta1), tf.mul(gradient, 1 - beta1));
    const v = tf.add(tf.mul(v0 ?? tf.zerosLike(gradient), beta2), tf.mul(tf.square(gradient), 1 - beta2));
    replaceState(first, key, m);
    replaceState(second, key, v);
    const denominator = tf.add(tf.div(tf.sqrt(v), Math.sqrt(1 - beta2 ** steps)), epsilon);
    const decayed = weightDecay > 0 && value.rank > 1 ? tf.mul(value, 1 - lr * weightDecay) : value;
    return tf.sub(decayed, tf.mul(tf.div(m, denominator), lr / (1 - beta1 ** steps)));
  });
}

function sgd(settings: Extract<OptimizerSettings, { kind: 'sgd' }>): Optimizer {
  const { learningRate, momentum = 0 } = settings;
  const velocity: State = new Map();
  return optimizer({ velocity }, (key, value, gradient, rate) => {
    const tf = tensorflow();
    if (momentum === 0) return tf.sub(value, tf.mul(gradient, learningRate * rate));
    const old = velocity.get(key);
    const v = old === undefined ? tf.clone(gradient) : tf.add(tf.mul(old, momentum), gradient);
    replaceState(velocity, key, v);
    return tf.sub(value, tf.mul(v, learningRate * rate));
  });
}

export type Schedule = 'constant' | 'cosine' | 'linear';

/** Factor on the learning rate at a step (from 0): linear warm-up, then constant, or down to `floor` by cosine or line. */
export function scheduleRate(schedule: Schedule, step: number, steps: number, warmup = 0, floor = 0): number {
  if (step < warmup) return (step + 1) / warmup;
  if (schedule === 'constant') return 1;
  const progress = Math.min(1, (step - warmup) / Math.max(1, steps - warmup));
  const falling = schedule === 'cosine' ? (1 + Math.cos(Math.PI * progress)) / 2 : 1 - progress;
  return floor + (1 - floor) * falling;
}
