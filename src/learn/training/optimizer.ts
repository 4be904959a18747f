import { LearndError } from '../../base/errors.ts';
import type { HostTensor } from '../model/types.ts';
import type { Tensor } from '../tensor/backend.ts';
import { tensorflow } from '../tensor/backend.ts';
import { applyAdam, type Variable, variable } from '../tensor/native.ts';

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
  /** What it carries from step to step, by reference: valid until the next step, which disposes it. */
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

/** What an optimizer does to one parameter in a step, and what it carries on to the next. */
interface Rule {
  /** The parameter after step number `step` (from 1), made inside the caller's tidy. */
  change(key: string, value: Tensor, gradient: Tensor, rate: number, step: number): Tensor;
  /** Called once the step's last parameter is done. */
  end(): void;
  state(): Map<string, Tensor>;
  /** @throws LearndError('corrupt') when it keeps nothing of that name */
  restore(name: string, value: HostTensor): void;
  dispose(): void;
}

function optimizer(rule: Rule): Optimizer {
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
        const next = tf.tidy(() => tf.keep(rule.change(key, value, gradient, rate, steps)));
        if (measure) square += tf.tidy(() => tf.sum(tf.square(tf.sub(next, value))).dataSync()[0]!);
        parameters.set(key, next);
      }
      rule.end();
      return measure ? Math.sqrt(square) : undefined;
    },
    state: () => ({ steps, tensors: rule.state() }),
    restore: from => {
      if (steps > 0)
        throw new LearndError('internal', 'an optimizer that has taken steps cannot take up another state');
      for (const [name, value] of from.tensors) rule.restore(name, value);
      steps = from.steps;
    },
    dispose: () => rule.dispose(),
  };
}

/** A tensor of its own memory: one made from a JavaScript array would be that array, and be changed in place with it. */
const copied = ({ data, shape }: HostTensor): Tensor => tensorflow().add(tensorflow().tensor(data, [...shape]), 0);

const unknown = (name: string) => new LearndError('corrupt', `this optimizer keeps no ${name}`);

/**
 * TensorFlow's fused kernel, which changes the moments in place: 9 passes over memory instead of 30. It adds epsilon before the
 * bias correction of the second moment, PyTorch after it, so epsilon is scaled. The corrections are made here, in float64 and of the
 * betas as float32 holds them: 1 - beta2 is off by 1e-5 in float32, and so it cancels.
 */
function adam(settings: Extract<OptimizerSettings, { kind: 'adam' }>): Optimizer {
  const { learningRate, betas = [0.9, 0.999], epsilon = 1e-8, weightDecay = 0 } = settings;
  const [beta1, beta2] = [Math.fround(betas[0]), Math.fround(betas[1])];
  const moments = new Map<string, { m: Variable; v: Variable }>();
  /** Takes the parameter in and gives the changed one out; shared by all, so it holds no memory of its own between steps. */
  let scratch: Variable | undefined;
  let shown: Tensor[] = [];
  const hide = () => {
    for (const tensor of shown) tensor.dispose();
    shown = [];
  };
  /** Of the step under way: a tensor is made once and not for each parameter. */
  let scalars: ReturnType<typeof scalarsOf> | undefined;
  const scalarsOf = (lr: number, step: number) => {
    const scalar = (x: number) => tensorflow().keep(tensorflow().scalar(x));
    const root = Math.sqrt(1 - beta2 ** step);
    return {
      ...{ beta1: scalar(beta1), beta2: scalar(beta2), beta1Power: scalar(0), beta2Power: scalar(0) },
      ...{ rate: scalar((lr * root) / (1 - beta1 ** step)), epsilon: scalar(epsilon * root) },
    };
  };
  const momentsOf = (key: string, shape: number[]) => {
    let own = moments.get(key);
    if (own === undefined) {
      const zeros = tensorflow().zeros(shape);
      own = { m: variable(zeros), v: variable(zeros) };
      zeros.dispose();
      moments.set(key, own);
    }
    return own;
  };
  const release = () => {
    if (scratch !== undefined) tensorflow().tidy(() => scratch!.set(tensorflow().scalar(0)));
    for (const scalar of Object.values(scalars ?? {})) scalar.dispose();
    scalars = undefined;
  };
  return optimizer({
    change: (key, value, gradient, rate, step) => {
      const tf = tensorflow();
      hide();
      const lr = learningRate * rate;
      const decayed = weightDecay > 0 && value.rank > 1 ? tf.mul(value, 1 - lr * weightDecay) : value;
      if (scratch === undefined) scratch = variable(decayed);
      else scratch.set(decayed);
      if (decayed !== value) decayed.dispose();
      scalars ??= scalarsOf(lr, step);
      applyAdam({ value: scratch, ...momentsOf(key, value.shape) }, scalars, gradient);
      return scratch.get();
    },
    end: release,
    state: () => {
      hide();
      const found = [...moments].flatMap(([key, { m, v }]): [string, Tensor][] => [
        [`first:${key}`, m.get()],
        [`second:${key}`, v.get()],
      ]);
      shown = found.map(([, tensor]) => tensorflow().keep(tensor));
      return new Map(found);
    },
    restore: (name, value) => {
      const match = /^(first|second):(.*)$/s.exec(name);
      if (match === null) throw unknown(name);
      const own = momentsOf(match[2]!, [...value.shape]);
      tensorflow().tidy(() => (match[1] === 'first' ? own.m : own.v).set(copied(value)));
    },
    dispose: () => {
      hide();
      for (const { m, v } of moments.values()) {
        m.dispose();
        v.dispose();
      }
      moments.clear();
      scratch?.dispose();
      scratch = undefined;
    },
  });
}

function sgd(settings: Extract<OptimizerSettings, { kind: 'sgd' }>): Optimizer {
  const { learningRate, momentum = 0 } = settings;
  const velocity = new Map<string, Tensor>();
  const replace = (key: string, value: Tensor) => {
    velocity.get(key)?.dispose();
    velocity.set(key, tensorflow().keep(value));
  };
  return optimizer({
    change: (key, value, gradient, rate) => {
      const tf = tensorflow();
      if (momentum === 0) return tf.sub(value, tf.mul(gradient, learningRate * rate));
      const old = velocity.get(key);
      const v = old === undefined ? tf.clone(gradient) : tf.add(tf.mul(old, momentum), gradient);
      replace(key, v);
      return tf.sub(value, tf.mul(v, learningRate * rate));
    },
    end: () => undefined,
    state: () => new Map([...velocity].map(([key, tensor]) => [`velocity:${key}`, tensor])),
    restore: (name, value) => {
      if (!name.startsWith('velocity:')) throw unknown(name);
      tensorflow().tidy(() => replace(name.slice('velocity:'.length), copied(value)));
    },
    dispose: () => {
      for (const tensor of velocity.values()) tensor.dispose();
      velocity.clear();
    },
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
