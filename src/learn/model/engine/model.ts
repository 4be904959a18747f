import { LearndError } from '../../../base/errors.ts';
import type { Tensor } from '../../tensor/backend.ts';
import { tensorflow } from '../../tensor/backend.ts';
import type { HostTensor, LoraAdapter, ModelConfig, WeightSource } from '../types.ts';

/** A model whose float32 weights are held by TensorFlow, by their Hugging Face names and in Hugging Face layout. */
export interface EngineModel {
  readonly config: ModelConfig;
  /** The weight of that name. @throws LearndError('corrupt') when the model lacks it. */
  parameter(name: string): Tensor;
  parameterNames(): string[];
  /** Replaces a weight (same shape) and disposes the old one. Takes ownership of `value`. */
  setParameter(name: string, value: Tensor): void;
  /** RoPE tables for sequences of `length` positions. Owned by the model. */
  rope(length: number): RopeTables;
  /** Additive causal mask [length, length]: 0 where a position may look, -1e9 where not. Owned by the model. */
  causalMask(length: number): Tensor;
  dispose(): void;
}

/** cos [length, headDim] and sin with its first half negated, so that rotate-half is x cos + swapHalves(x) sin; q's carry 1/sqrt(headDim). */
export interface RopeTables {
  readonly qCos: Tensor;
  readonly qSin: Tensor;
  readonly kCos: Tensor;
  readonly kSin: Tensor;
}

/** A LoRA adapter on the device. `scale` = alpha / rank. A: [rank, in], B: [out, rank]. */
export interface EngineAdapter {
  readonly rank: number;
  readonly alpha: number;
  readonly scale: number;
  readonly pairs: Map<string, { a: Tensor; b: Tensor }>;
  dispose(): void;
}

export const LINEAR_KINDS = [
  'self_attn.q_proj',
  'self_attn.k_proj',
  'self_attn.v_proj',
  'self_attn.o_proj',
  'mlp.gate_proj',
  'mlp.up_proj',
  'mlp.down_proj',
] as const;

export const layerName = (layer: number, rest: string): string => `model.layers.${layer}.${rest}`;

/** Every weight that the configuration calls for, with its shape. */
export function expectedShapes(config: ModelConfig): Map<string, readonly number[]> {
  const { hidden, headDim, heads, kvHeads } = config;
  const shapes = new Map<string, readonly number[]>([['model.embed_tokens.weight', [config.vocabSize, hidden]]]);
  for (let layer = 0; layer < config.layers; layer++) {
    const ffn = config.ffn[layer];
    if (ffn === undefined)
      throw new LearndError(
        'corrupt',
        `the configuration names ${config.layers} layers but ${config.ffn.length} feed-forward widths`,
      );
    const set = (rest: string, shape: readonly number[]) => shapes.set(layerName(layer, rest), shape);
    set('input_layernorm.weight', [hidden]);
    set('self_attn.q_proj.weight', [heads * headDim, hidden]);
    set('self_attn.k_proj.weight', [kvHeads * headDim, hidden]);
    set('self_attn.v_proj.weight', [kvHeads * headDim, hidden]);
    if (config.attentionBias) {
      set('self_attn.q_proj.bias', [heads * headDim]);
      set('self_attn.k_proj.bias', [kvHeads * headDim]);
      set('self_attn.v_proj.bias', [kvHeads * headDim]);
    }
    set('self_attn.o_proj.weight', [hidden, heads * headDim]);
    set('post_attention_layernorm.weight', [hidden]);
    set('mlp.gate_proj.weight', [ffn, hidden]);
    set('mlp.up_proj.weight', [ffn, hidden]);
    set('mlp.down_proj.weight', [hidden, ffn]);
    if (config.downBias) set('mlp.down_proj.bias', [hidden]);
  }
  shapes.set('model.norm.weight', [hidden]);
  if (!config.tied) shapes.set('lm_head.weight', [config.vocabSize, hidden]);
  return shapes;
}

/**
 * Reads every weight into TensorFlow, one at a time.
 * @param options.layers Only the first blocks (for features of a middle layer); the configuration is cut accordingly.
 * @throws LearndError('corrupt') when a weight is absent or has another shape than the configuration implies.
 */
export function loadEngineModel(
  source: { config: ModelConfig; weights: WeightSource },
  options: { layers?: number } = {},
): EngineModel {
  const config = cut(source.config, options.layers);
  if (config.heads % config.kvHeads !== 0)
    throw new LearndError(
      'corrupt',
      `${config.heads} attention heads cannot share ${config.kvHeads} key/value heads evenly`,
    );
  const tf = tensorflow();
  const parameters = new Map<string, Tensor>();
  const present = new Set(source.weights.names());
  const shapes = expectedShapes(config);
  // One array for all weights, big ones a few rows at a time: left to the garbage collector, the arrays of SmolLM2-135M add 40% to the peak.
  const scratch = new Float32Array(UPLOAD_CHUNK);
  for (const [name, shape] of shapes) {
    if (!present.has(name)) throw new LearndError('corrupt', `the model has no weight ${name}`);
    const size = shape.reduce((a, b) => a * b, 1);
    const fits = source.weights.shape(name).join() === shape.join();
    if (fits && size > UPLOAD_CHUNK) {
      const uploaded = uploadByRows(source.weights, name, shape, scratch);
      if (uploaded !== undefined) {
        parameters.set(name, uploaded);
        continue;
      }
    }
    const into = fits && size <= UPLOAD_CHUNK ? scratch.subarray(0, size) : undefined;
    const { data, shape: found } = source.weights.read(name, into);
    if (found.length !== shape.length || found.some((size, i) => size !== shape[i]))
      throw new LearndError('corrupt', `weight ${name} has shape [${found}], the configuration says [${shape}]`);
    parameters.set(name, uploadWeight(data, shape));
  }
  const ropes = new Map<number, RopeTables>();
  const masks = new Map<number, Tensor>();
  return {
    config,
    parameter: name => {
      const value = parameters.get(name);
      if (value === undefined) throw new LearndError('corrupt', `the model has no weight ${name}`);
      return value;
    },
    parameterNames: () => [...parameters.keys()],
    setParameter: (name, value) => {
      const old = parameters.get(name);
      if (old === undefined) throw new LearndError('internal', `the model has no weight ${name} to replace`);
      if (old.shape.join() !== value.shape.join())
        throw new LearndError('internal', `weight ${name}: [${value.shape}] cannot replace [${old.shape}]`);
      parameters.set(name, tf.keep(value));
      old.dispose();
    },
    rope: length => {
      let tables = ropes.get(length);
      if (tables === undefined) {
        if (ropes.size >= 64) evictOldest(ropes, disposeTables);
        tables = ropeTables(config, length);
        ropes.set(length, tables);
      }
      return tables;
    },
    causalMask: length => {
      let mask = masks.get(length);
      if (mask === undefined) {
        if (masks.size >= 64) evictOldest(masks, old => old.dispose());
        mask = causalMask(length);
        masks.set(length, mask);
      }
      return mask;
    },
    dispose: () => {
      for (const tensor of parameters.values()) tensor.dispose();
      for (const tables of ropes.values()) disposeTables(tables);
      for (const mask of masks.values()) mask.dispose();
      parameters.clear();
      ropes.clear();
      masks.clear();
    },
  };
}

function cut(config: ModelConfig, layers: number | undefined): ModelConfig {
  if (layers === undefined) return config;
  if (!Number.isInteger(layers) || layers < 0 || layers > config.layers)
    throw new LearndError('invalid', `cannot keep ${layers} of ${config.layers} layers`, { field: 'layers' });
  return { ...config, layers, ffn: config.ffn.slice(0, layers) };
}

/** Weights in one upload, at most: 16 MB. */
const UPLOAD_CHUNK = 1 << 22;

/** undefined where the source cannot give single rows. */
function uploadByRows(
  weights: WeightSource,
  name: string,
  shape: readonly number[],
  scratch: Float32Array,
): Tensor | undefined {
  const tf = tensorflow();
  const [rows, columns] = shape as [number, number];
  const each = Math.floor(scratch.length / columns);
  if (shape.length !== 2 || each < 1) return undefined;
  return tf.tidy(() => {
    const pieces: Tensor[] = [];
    for (let row = 0; row < rows; row += each) {
      const n = Math.min(each, rows - row);
      const values = scratch.subarray(0, n * columns);
      if (weights.readRows?.(name, row, values) !== true) return undefined;
      pieces.push(tf.tidy(() => tf.add(tf.tensor(values, [n, columns], 'float32'), 0)));
    }
    return tf.keep(pieces.length === 1 ? pieces[0]! : tf.concat(pieces, 0));
  });
}

/** A tfjs tensor keeps the JavaScript array until its first op, so a weight is copied in and handed over at once. */
function uploadWeight(data: Float32Array, shape: readonly number[]): Tensor {
  const tf = tensorflow();
  return tf.tidy(() => tf.keep(tf.add(tf.tensor(data, [...shape], 'float32'), 0)));
}

function disposeTables(tables: RopeTables): void {
  for (const table of Object.values(tables) as Tensor[]) table.dispose();
}

function evictOldest<T>(cache: Map<number, T>, dispose: (value: T) => void): void {
  const [length, value] = cache.entries().next().value!;
  cache.delete(length);
  dispose(value);
}

/** Angles in float64, rounded once: position * theta^(-2i / headDim), the two halves alike (Hugging Face's rotate-half order). */
function ropeTables(config: ModelConfig, length: number): RopeTables {
  const tf = tensorflow();
  const { headDim, ropeTheta } = config;
  const half = headDim / 2;
  const scale = 1 / Math.sqrt(headDim);
  const tables = Array.from({ length: 4 }, () => new Float32Array(length * headDim)) as [
    Float32Array,
    Float32Array,
    Float32Array,
    Float32Array,
  ];
  const [qCos, qSin, kCos, kSin] = tables;
  for (let position = 0; position < length; position++) {
    for (let i = 0; i < headDim; i++) {
      // The reference implementation rounds the inverse frequency to float32 first; large positions would show the difference.
      const angle = position * Math.fround(ropeTheta ** (-(2 * (i % half)) / headDim));
      const at = position * headDim + i;
      kCos[at] = Math.cos(angle);
      kSin[at] = i < half ? -Math.sin(angle) : Math.sin(angle);
      qCos[at] = kCos[at]! * scale;
      qSin[at] = kSin[at]! * scale;
    }
  }
  const shape: [number, number] = [length, headDim];
  return tf.tidy(() => {
    const make = (table: Float32Array) => tf.keep(tf.tensor2d(table, shape));
    return { qCos: make(qCos), qSin: make(qSin), kCos: make(kCos), kSin: make(kSin) };
  });
}

function causalMask(length: number): Tensor {
  const tf = tensorflow();
  const mask = new Float32Array(length * length);
  for (let row = 0; row < length; row++) mask.fill(-1e9, row * length + row + 1, (row + 1) * length);
  return tf.tidy(() => tf.keep(tf.tensor2d(mask, [length, length])));
}

/** @throws LearndError('corrupt') when a pair does not fit the weight it is for. */
export function loadEngineAdapter(model: EngineModel, adapter: LoraAdapter): EngineAdapter {
  const tf = tensorflow();
  const pairs = new Map<string, { a: Tensor; b: Tensor }>();
  for (const [name, { a, b }] of adapter.pairs) {
    const [out, input] = model.parameter(name).shape as [number, number];
    const fits = (t: HostTensor, rows: number, columns: number) => t.shape[0] === rows && t.shape[1] === columns;
    if (!fits(a, adapter.rank, input) || !fits(b, out, adapter.rank))
      throw new LearndError(
        'corrupt',
        `the adapter's pair for ${name} is A [${a.shape}], B [${b.shape}]; rank ${adapter.rank} on a weight [${out},${input}] needs [${adapter.rank},${input}] and [${out},${adapter.rank}]`,
      );
    pairs.set(name, { a: uploadWeight(a.data, a.shape), b: uploadWeight(b.data, b.shape) });
  }
  return engineAdapter(adapter.rank, adapter.alpha, pairs, tf.keep);
}

export function engineAdapter(
  rank: number,
  alpha: number,
  pairs: Map<string, { a: Tensor; b: Tensor }>,
  keep: (tensor: Tensor) => Tensor = tensor => tensor,
): EngineAdapter {
  for (const { a, b } of pairs.values()) {
    keep(a);
    keep(b);
  }
  return {
    rank,
    alpha,
    scale: alpha / rank,
    pairs,
    dispose: () => {
      for (const { a, b } of pairs.values()) {
        a.dispose();
        b.dispose();
      }
      pairs.clear();
    },
  };
}

/** Copies a tensor to the JavaScript side. */
export function toHost(tensor: Tensor): HostTensor {
  return { shape: [...tensor.shape], data: Float32Array.from(tensor.dataSync()) };
}

/** The tensor behind a trainable key. */
export function parameterOf(model: EngineModel, adapter: EngineAdapter | undefined, key: string): Tensor {
  const match = /^(.*)\.lora_([ab])$/.exec(key);
  if (match === null) return model.parameter(key);
  return adapter!.pairs.get(match[1]!)![match[2] as 'a' | 'b'];
}
