import { invalid } from '../base/errors.ts';
import type { Example } from '../learn/model/engine/units.ts';
import type { ModelConfig } from '../learn/model/types.ts';
import { type DpPlan, type Mechanism, makePlan } from '../learn/privacy/index.ts';
import { chooseMethod, histogramNoise, PRIVATE_LAYERS, PRIVATE_RANK } from '../learn/training/auto.ts';
import { parameterCount } from '../learn/training/memory.ts';
import type { Objective } from '../learn/training/objectives/index.ts';
import type { OptimizerSettings, Schedule } from '../learn/training/optimizer.ts';
import { partSeed } from '../learn/training/seal.ts';
import type { Method } from '../learn/training/trainables.ts';
import { defaultOptimizer } from '../learn/training/trainer.ts';
import type { Begun } from './train-job.ts';
import { deltaOf, epsilonOf, type TrainOptions, targetsOf } from './train-options.ts';

export interface TextData {
  readonly units: readonly (readonly Example[])[];
  readonly objective?: Objective;
  /** The same units without variants: what a histogram counts, and how many examples there are. Absent: there are none. */
  readonly plain?: readonly (readonly Example[])[];
}

export interface Decision {
  /** Absent: the histogram is all. */
  readonly method?: Method;
  /** Of mu^2, for the histogram of tokens; 0: none is released. */
  readonly histogramShare: number;
  readonly steps: number;
  readonly batch: number;
  /** What a person should know before it begins. */
  readonly said: readonly string[];
}

/** Steps of private training: few, since each costs; every unit normalised to 1 (docs/results/documents.md). */
const PRIVATE_STEPS = { norms: 10, bias: 10, lora: 20, full: 20 } as const;
const PRIVATE_BATCH = 512;
const PUBLIC_RANK = 8;
const PUBLIC_BATCH = 32;
const PASSES = 3;

/** Method, steps and batch. Outside the daemon the number of units is the caller's to publish: the file is theirs, and so is the result. */
export function decide(options: TrainOptions, config: ModelConfig, data: TextData): Decision {
  const target = epsilonOf(options);
  const units = data.units.length;
  const examples = (data.plain ?? data.units).reduce((sum, unit) => sum + unit.length, 0);
  const said: string[] = [];
  let { method: kind } = options;
  let histogramShare = 0;
  if (kind === 'auto') {
    const { hidden, layers, kvHeads, headDim } = config;
    const shape = {
      hidden,
      layers,
      kvWidth: kvHeads * headDim,
      ffn: Math.round(config.ffn.reduce((a, b) => a + b, 0) / layers),
      parameters: parameterCount(config),
    };
    const choice = chooseMethod({
      data: 'documents',
      units,
      epsilon: target ?? 'none',
      delta: deltaOf(options),
      shape,
    });
    kind = choice.method;
    // The histogram is a bias on what text is likely, which is not what the other objectives are about.
    const plain = options.objective === undefined || options.objective === 'next_token';
    histogramShare = plain ? choice.histogramShare : 0;
    if (kind === 'bias' && !plain) kind = 'norms';
    said.push(choice.why);
  } else if (kind === 'bias' && !config.attentionBias) histogramShare = 1;
  if (target !== null && deltaOf(options) >= 1 / units)
    said.push(
      `warning: delta ${deltaOf(options)} is not below 1 / ${units} units: with it, the data of one unit may be released outright`,
    );
  const available = target === null ? examples : units;
  const of = target === null ? 'examples' : 'units';
  if (options.batch !== undefined && options.batch > available)
    throw invalid(
      'batch',
      `a batch of ${options.batch} is more than the ${available} ${of} that ${options.file} holds`,
    );
  if (histogramShare === 1) {
    if (options.augment !== undefined && options.method === 'bias')
      throw invalid('augment', 'a histogram counts the words as they were written: there is nothing to augment');
    if (options.augment !== undefined) said.push('without variants: a histogram counts the words as they were written');
    return { histogramShare, steps: 1, batch: units, said };
  }
  const method = methodOf(kind as 'full' | 'lora' | 'norms' | 'bias', options, config, target !== null);
  const batch = options.batch ?? Math.min(available, target === null ? PUBLIC_BATCH : PRIVATE_BATCH);
  const steps =
    options.steps ??
    (target === null
      ? Math.min(400, Math.max(30, Math.ceil((PASSES * examples) / batch)))
      : PRIVATE_STEPS[method.kind]);
  return { method, histogramShare, steps, batch, said };
}

function methodOf(
  kind: 'full' | 'lora' | 'norms' | 'bias',
  options: TrainOptions,
  config: ModelConfig,
  isPrivate: boolean,
): Method {
  const { layers } = options;
  if (layers !== undefined && layers > config.layers)
    throw invalid('layers', `the model has ${config.layers} layers, not ${layers}`);
  switch (kind) {
    case 'full':
    case 'bias':
      return { kind };
    case 'norms':
      return { kind, layers: layers ?? Math.min(PRIVATE_LAYERS, config.layers) };
    case 'lora': {
      const targets = targetsOf(options.targets);
      const last = layers ?? (isPrivate ? Math.min(PRIVATE_LAYERS, config.layers) : undefined);
      return {
        kind,
        rank: options.rank ?? (isPrivate ? PRIVATE_RANK : PUBLIC_RANK),
        ...(targets && { targets }),
        ...(last !== undefined && { layers: last }),
      };
    }
  }
}

export interface Plans {
  readonly method?: Method;
  /** `public`: counted without noise. */
  readonly histogram?: DpPlan | 'public';
  readonly steps?: DpPlan;
  /** Instead of a plan of steps, without noise. */
  readonly public?: {
    readonly steps: number;
    readonly batch: number;
    readonly schedule: { readonly kind: Schedule; readonly warmup: number; readonly floor: number };
  };
  readonly optimizer?: OptimizerSettings;
  /** Of the histogram: released before the steps. */
  readonly mechanisms: readonly Mechanism[];
  readonly noise: Begun['noise'];
  readonly delta: number | null;
  readonly target: number | null;
}

/** Sampling, clipping, noise and cost of everything the training will release, from a noise fixed before where it goes on. */
export function plansOf(
  options: TrainOptions,
  decision: Decision,
  data: TextData,
  seed: Uint8Array,
  before: Begun['noise'] | undefined,
): Plans {
  const { method, histogramShare, steps, batch } = decision;
  const target = epsilonOf(options);
  const optimizer =
    options.rate === undefined || method === undefined
      ? {}
      : { optimizer: rated(options.rate, method, target !== null) };
  if (target === null)
    return {
      ...(method && { method }),
      ...(histogramShare > 0 && { histogram: 'public' as const }),
      ...(method && { public: { steps, batch, schedule: { kind: 'cosine', warmup: Math.min(5, steps), floor: 0.1 } } }),
      ...optimizer,
      ...{ mechanisms: [], noise: {}, delta: null, target },
    };
  const delta = deltaOf(options);
  const units = data.units.length;
  const common = {
    units,
    expectedUnits: units,
    delta,
    clip: { kind: 'auto-s' } as const,
    unit: options.user === undefined ? ('example' as const) : ('user' as const),
  };
  const first = before?.histogram ?? (histogramShare > 0 ? histogramNoise(target, delta, histogramShare) : undefined);
  const histogram =
    first === undefined
      ? undefined
      : makePlan({ ...common, steps: 1, noiseMultiplier: first, seed: partSeed(seed, 'histogram') });
  const mechanisms = histogram?.mechanisms ?? [];
  if (method === undefined) return { histogram: histogram!, mechanisms, noise: { histogram: first! }, delta, target };
  const plan = makePlan({
    ...common,
    steps,
    sampleRate: Math.min(1, batch / units),
    ...(before?.steps === undefined ? { epsilon: target } : { noiseMultiplier: before.steps }),
    prior: mechanisms,
    seed: partSeed(seed, 'steps'),
  });
  return {
    ...{ method, steps: plan, mechanisms, delta, target, ...optimizer },
    ...(histogram && { histogram }),
    noise: { steps: plan.noiseMultiplier, ...(first !== undefined && { histogram: first }) },
  };
}

const rated = (learningRate: number, method: Method, isPrivate: boolean): OptimizerSettings => ({
  ...defaultOptimizer(method, isPrivate, 1),
  learningRate,
});
