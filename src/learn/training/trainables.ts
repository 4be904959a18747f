import { invalid } from '../../base/errors.ts';
import { vocabularyKeys } from '../model/engine/backward.ts';
import type { EngineAdapter, EngineModel } from '../model/engine/model.ts';
import { engineAdapter, LINEAR_KINDS, layerName, toHost } from '../model/engine/model.ts';
import { loraA, loraB } from '../model/engine/sinks.ts';
import { parameterOf, type Trainable } from '../model/engine/units.ts';
import type { HostTensor, LoraAdapter } from '../model/types.ts';
import type { SecureStream } from '../privacy/index.ts';
import type { Tensor } from '../tensor/backend.ts';
import { tensorflow } from '../tensor/backend.ts';
import type { Parameters } from './optimizer.ts';

export type LinearKind = (typeof LINEAR_KINDS)[number];

export type Method =
  | {
      readonly kind: 'lora';
      readonly rank: number;
      /** Default 2 x rank. */
      readonly alpha?: number;
      /** Default: every linear layer of a block. */
      readonly targets?: readonly LinearKind[];
      /** Only the last so many blocks; default all. */
      readonly layers?: number;
    }
  /** RMSNorm scales of the last blocks and the final norm: 7,488 numbers for 6 blocks of SmolLM2-135M. */
  | { readonly kind: 'norms'; readonly layers: number }
  /** Bias vectors of the projections, where the architecture has them (Qwen2 style). */
  | { readonly kind: 'bias' }
  | { readonly kind: 'full' };

/** `trainable` for the engine, `parameters` for the optimizer. */
export interface Training {
  readonly trainable: Trainable;
  readonly parameters: Parameters;
  /** Copies of what was trained. */
  result(): { adapter?: LoraAdapter; weights?: Map<string, HostTensor> };
  /** Disposes what this made (a new adapter); the model stays as trained. */
  dispose(): void;
}

/**
 * Prepares a method on a model. `lora` makes a new adapter (A from N(0, 1/in), B zero) and leaves the model alone; `norms`, `bias`
 * and `full` change the model's own weights in place.
 * @param frozen An adapter that stays as it is and is part of the forward pass (for `norms`).
 */
export function prepareTraining(
  model: EngineModel,
  method: Method,
  stream: SecureStream,
  frozen?: EngineAdapter,
): Training {
  if (method.kind === 'lora') return prepareLora(model, method, stream, frozen);
  const keys =
    method.kind === 'norms'
      ? normKeys(model, method.layers)
      : method.kind === 'bias'
        ? biasKeys(model)
        : model.parameterNames();
  if (method.kind === 'full' && frozen !== undefined)
    throw invalid('method', 'full training of a model under an adapter: merge the adapter first');
  const from = method.kind === 'norms' ? model.config.layers - method.layers : 0;
  const trainable: Trainable = {
    keys: new Set(keys),
    size: keys.reduce((sum, key) => sum + model.parameter(key).size, 0),
    from,
    adapter: frozen,
    vocabulary: method.kind === 'full' && vocabularyKeys(model).length > 0,
    small: method.kind !== 'full',
  };
  return {
    trainable,
    parameters: {
      keys: () => keys,
      get: key => model.parameter(key),
      set: (key, value) => model.setParameter(key, value),
    },
    result: () => ({ weights: new Map(keys.map(key => [key, toHost(model.parameter(key))])) }),
    dispose: () => undefined,
  };
}

function normKeys(model: EngineModel, layers: number): string[] {
  checkLayers(model, layers);
  const keys: string[] = [];
  for (let layer = model.config.layers - layers; layer < model.config.layers; layer++)
    keys.push(layerName(layer, 'input_layernorm.weight'), layerName(layer, 'post_attention_layernorm.weight'));
  return [...keys, 'model.norm.weight'];
}

function biasKeys(model: EngineModel): string[] {
  const keys = model.parameterNames().filter(name => name.endsWith('.bias'));
  if (keys.length === 0)
    throw invalid('method', 'this model has no bias vectors: what can be trained instead is a bias on the vocabulary');
  return keys;
}

function checkLayers(model: EngineModel, layers: number): void {
  if (!Number.isInteger(layers) || layers < 1 || layers > model.config.layers)
    throw invalid('layers', `cannot train the last ${layers} of ${model.config.layers} layers`);
}

function prepareLora(
  model: EngineModel,
  method: Extract<Method, { kind: 'lora' }>,
  stream: SecureStream,
  frozen: EngineAdapter | undefined,
): Training {
  const tf = tensorflow();
  const { rank, alpha = 2 * rank, targets = LINEAR_KINDS, layers = model.config.layers } = method;
  if (frozen !== undefined) throw invalid('method', 'a second adapter over an adapter: merge the first one before');
  if (!Number.isInteger(rank) || rank < 1)
    throw invalid('rank', `the rank must be a whole number of at least 1, not ${rank}`);
  checkLayers(model, layers);
  if (targets.length === 0) throw invalid('targets', 'an adapter needs at least one linear layer');
  const from = model.config.layers - layers;
  const pairs = new Map<string, { a: Tensor; b: Tensor }>();
  for (let layer = from; layer < model.config.layers; layer++) {
    for (const kind of targets) {
      const name = layerName(layer, `${kind}.weight`);
      const [out, input] = model.parameter(name).shape as [number, number];
      const a = tf.tensor2d(stream.normal(rank * input, 1 / Math.sqrt(input)), [rank, input]);
      pairs.set(name, { a, b: tf.zeros([out, rank]) });
    }
  }
  const adapter = engineAdapter(rank, alpha, pairs, tf.keep);
  const keys = [...pairs.keys()].flatMap(name => [loraA(name), loraB(name)]);
  return {
    trainable: {
      keys: new Set(keys),
      size: keys.reduce((sum, key) => sum + parameterOf(model, adapter, key).size, 0),
      adapter,
      from,
      vocabulary: false,
      small: true,
    },
    parameters: {
      keys: () => keys,
      get: key => parameterOf(model, adapter, key),
      set: (key, value) => {
        const side = key.endsWith('.lora_a') ? 'a' : 'b';
        const pair = pairs.get(key.slice(0, -'.lora_a'.length))!;
        pair[side].dispose();
        pair[side] = value;
      },
    },
    result: () => ({
      adapter: {
        rank,
        alpha,
        pairs: new Map([...pairs].map(([name, { a, b }]) => [name, { a: toHost(a), b: toHost(b) }])),
      },
    }),
    dispose: () => adapter.dispose(),
  };
}
