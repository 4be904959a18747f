import type { Tensor } from '../../tensor/backend.ts';
import { tensorflow } from '../../tensor/backend.ts';
import { matMul } from '../../tensor/native.ts';
import { lossBackward, lowerBlocks } from './backward.ts';
import { groupByLength, padBatch, scoredRows, type TokenBatch } from './batch.ts';
import type { EngineAdapter, EngineModel } from './model.ts';
import { accumulate, disposeGradients, type Gradients, SumSink, UnitSink } from './sinks.ts';

/** One training sequence. `mask[t]` says whether token t is scored (never the first); absent: all but the first are. */
export interface Example {
  readonly tokens: readonly number[];
  readonly mask?: readonly boolean[];
}

/** What is trained and how its gradients are reached. */
export interface Trainable {
  /** Parameter keys: weight names, and `loraA`/`loraB` of a weight's name. */
  readonly keys: ReadonlySet<string>;
  /** Numbers trained. */
  readonly size: number;
  readonly adapter?: EngineAdapter;
  /** Lowest block with something to train; with a cache, what enters it is computed once an example. */
  readonly from: number;
  readonly vocabulary: boolean;
  /** Every unit's gradient fits beside the others' (norm scales, biases, LoRA); else one unit is materialised at a time. */
  readonly small: boolean;
}

/**
 * Holds what enters block `from` for each example, up to `maxBytes`; beyond that it is computed again each time. Which examples are
 * held, and with which others each is computed (a sum may be rounded otherwise in another batch), follows from `examples` alone:
 * a training taken up in the middle sees the very same bits.
 */
export class HiddenCache {
  readonly #states = new Map<Example, Float32Array>();
  readonly #groups = new Map<Example, readonly Example[]>();

  constructor(maxBytes: number, examples: readonly Example[], hidden: number, maxTokens: number) {
    let bytes = 0;
    for (const group of groupByLength(
      examples.map(e => e.tokens.length),
      maxTokens,
    )) {
      const members = group.map(i => examples[i]!);
      bytes += members.reduce((sum, e) => sum + 4 * hidden * e.tokens.length, 0);
      if (bytes > maxBytes) break;
      for (const member of members) this.#groups.set(member, members);
    }
  }

  /** [batch * length, hidden] for the batch made of these examples. The caller disposes it. */
  input(
    model: EngineModel,
    batch: TokenBatch,
    examples: readonly Example[],
    { from, adapter }: { from: number; adapter?: EngineAdapter },
  ): Tensor {
    if (examples.some(example => !this.#groups.has(example))) return lowerBlocks(model, batch, from, adapter);
    const width = model.config.hidden;
    const all = new Float32Array(batch.batch * batch.length * width);
    examples.forEach((example, b) => {
      if (!this.#states.has(example)) this.#fill(model, this.#groups.get(example)!, { from, adapter });
      all.set(this.#states.get(example)!, b * batch.length * width);
    });
    return tensorflow().tensor2d(all, [batch.batch * batch.length, width]);
  }

  #fill(
    model: EngineModel,
    examples: readonly Example[],
    { from, adapter }: { from: number; adapter?: EngineAdapter },
  ): void {
    const width = model.config.hidden;
    const batch = padBatch(
      examples.map(e => e.tokens),
      model.config,
    );
    const hidden = lowerBlocks(model, batch, from, adapter);
    const data = hidden.dataSync() as Float32Array;
    hidden.dispose();
    examples.forEach((example, b) => {
      const at = b * batch.length * width;
      this.#states.set(example, data.slice(at, at + example.tokens.length * width));
    });
  }
}

export interface PassOptions {
  /** Padded tokens a microbatch. */
  readonly maxTokens: number;
  readonly cache?: HiddenCache;
  /** [vocabSize], part of the model that is trained: a vocabulary bias released before. Not disposed. */
  readonly tokenBias?: Tensor;
  /**
   * Weight of each scored token of an example in its unit's loss (may be negative: an answer to move away from). Default, and
   * where it gives undefined: 1 / (its scored tokens * examples of the unit), so that a unit's loss is the mean over examples.
   */
  readonly tokenWeight?: (example: Example) => number | undefined;
  /** Awaited after each microbatch: the place to let other work run, or to throw in order to stop. */
  readonly onMicrobatch?: () => void | Promise<void>;
}

export interface PassResult {
  /** By key, in the parameter's shape. The caller disposes them. */
  readonly gradients: Gradients;
  /** Unweighted nats and scored tokens of the pass. */
  readonly nll: number;
  readonly tokens: number;
}

/** Scored tokens of an example. */
export function scoredTokens({ tokens, mask }: Example): number {
  if (mask === undefined) return Math.max(0, tokens.length - 1);
  let count = 0;
  for (let t = 1; t < tokens.length; t++) if (mask[t] === true) count++;
  return count;
}

/** Gradient of the mean loss over all scored tokens of the examples. */
export async function meanGradient(
  model: EngineModel,
  examples: readonly Example[],
  trainable: Trainable,
  options: PassOptions,
): Promise<PassResult> {
  const useful = examples.filter(example => scoredTokens(example) > 0);
  const total = useful.reduce((sum, example) => sum + scoredTokens(example), 0);
  return summedGradient(model, useful, () => 1 / total, trainable, options);
}

/** Gradient of the sum over examples and their scored tokens of `weight(example, its scored tokens)` * cross-entropy. */
async function summedGradient(
  model: EngineModel,
  examples: readonly Example[],
  weight: (count: number) => number,
  trainable: Trainable,
  options: PassOptions,
): Promise<PassResult> {
  const sink = new SumSink(trainable.keys);
  let nll = 0;
  let tokens = 0;
  for (const group of groupByLength(
    examples.map(e => e.tokens.length),
    options.maxTokens,
  )) {
    const members = group.map(i => examples[i]!);
    const batch = padBatch(
      members.map(m => m.tokens),
      model.config,
    );
    const scored = scoredRows(
      batch,
      (b, count) => options.tokenWeight?.(members[b]!) ?? weight(count),
      members.map(m => m.mask),
    );
    const losses = pass(model, batch, members, scored, sink, trainable, options);
    for (const loss of losses) nll += loss;
    tokens += losses.length;
    await options.onMicrobatch?.();
  }
  return { gradients: sink.gradients, nll, tokens };
}

function pass(
  model: EngineModel,
  batch: TokenBatch,
  members: readonly Example[],
  scored: ReturnType<typeof scoredRows>,
  sink: SumSink | UnitSink,
  { adapter, from, vocabulary }: Trainable,
  { cache, tokenBias }: PassOptions,
): Float32Array {
  const input = from > 0 && cache !== undefined ? cache.input(model, batch, members, { from, adapter }) : undefined;
  const losses = lossBackward(model, batch, scored, sink, { adapter, from, input, vocabulary, tokenBias });
  input?.dispose();
  return losses;
}

export interface ClippedResult extends PassResult {
  /** Norm of each unit's gradient before clipping, in the order given (not private: for tests and diagnosis). */
  readonly norms: Float64Array;
}

/**
 * The sum over units of clipFactor(norm) * gradient, a unit's gradient being the mean over its examples of the gradient of
 * the example's mean loss. Exact: a unit's examples are added up before the norm, whatever the microbatches. A unit whose
 * gradient is not finite, or that has nothing scored, adds nothing (a factor of 0 would not do: 0 * NaN is NaN).
 */
export async function clippedUnitGradients(
  model: EngineModel,
  units: readonly (readonly Example[])[],
  trainable: Trainable,
  clipFactor: (norm: number) => number,
  options: PassOptions,
): Promise<ClippedResult> {
  const sums: Gradients = new Map();
  const norms = new Float64Array(units.length);
  let nll = 0;
  let tokens = 0;
  const useful = units.map(unit => unit.filter(example => scoredTokens(example) > 0));
  for (const group of groupUnits(useful, trainable, options.maxTokens)) {
    const part =
      group.length === 1 && isAlone(useful[group[0]!]!, trainable, options.maxTokens)
        ? await oneUnit(model, useful[group[0]!]!, trainable, options)
        : await severalUnits(
            model,
            group.map(u => useful[u]!),
            trainable,
            options,
          );
    clipInto(sums, part.gradients, group, norms, clipFactor);
    disposeGradients(part.gradients);
    nll += part.nll;
    tokens += part.tokens;
  }
  restoreShapes(model, trainable, sums);
  return { gradients: sums, norms, nll, tokens };
}

const longest = (unit: readonly Example[]): number => unit.reduce((most, e) => Math.max(most, e.tokens.length), 0);

const isAlone = (unit: readonly Example[], trainable: Trainable, maxTokens: number): boolean =>
  !trainable.small || longest(unit) * unit.length > maxTokens;

/** Bound on the floats of the units' gradients held side by side: 256 MB. */
const MAX_UNIT_FLOATS = 64e6;

/** Whole units a microbatch, alike in length; a unit too large for one is alone. Units with nothing scored are left out. */
function groupUnits(units: readonly (readonly Example[])[], trainable: Trainable, maxTokens: number): number[][] {
  const order = units
    .map((_, u) => u)
    .filter(u => units[u]!.length > 0)
    .sort((a, b) => longest(units[b]!) - longest(units[a]!) || a - b);
  const most = Math.max(1, Math.floor(MAX_UNIT_FLOATS / trainable.size));
  const groups: number[][] = [];
  let current: number[] = [];
  let sequences = 0;
  const close = () => {
    if (current.length > 0) groups.push(current);
    current = [];
    sequences = 0;
  };
  for (const u of order) {
    const unit = units[u]!;
    if (isAlone(unit, trainable, maxTokens)) {
      groups.push([u]);
      continue;
    }
    const length = longest(units[current[0] ?? u]!);
    if (current.length >= most || length * (sequences + unit.length) > maxTokens) close();
    current.push(u);
    sequences += unit.length;
  }
  close();
  return groups;
}

/** One unit's gradient, its examples in as many microbatches as they need: [1, parameters] a key. */
async function oneUnit(
  model: EngineModel,
  unit: readonly Example[],
  trainable: Trainable,
  options: PassOptions,
): Promise<PassResult> {
  const result = await summedGradient(model, unit, count => 1 / (count * unit.length), trainable, options);
  for (const [key, gradient] of result.gradients) {
    result.gradients.set(key, gradient.reshape([1, gradient.size]));
    gradient.dispose();
  }
  return result;
}

/** Several units in one microbatch: [units, parameters] a key. */
async function severalUnits(
  model: EngineModel,
  units: readonly (readonly Example[])[],
  trainable: Trainable,
  options: PassOptions,
): Promise<PassResult> {
  const members = units.flat();
  const unitOfSequence = Int32Array.from(units.flatMap((unit, u) => unit.map(() => u)));
  const batch = padBatch(
    members.map(m => m.tokens),
    model.config,
  );
  const scored = scoredRows(
    batch,
    (b, count) => options.tokenWeight?.(members[b]!) ?? 1 / (count * units[unitOfSequence[b]!]!.length),
    members.map(m => m.mask),
  );
  const sink = new UnitSink(trainable.keys, batch, unitOfSequence, units.length);
  const losses = pass(model, batch, members, scored, sink, trainable, options);
  const gradients = new Map(sink.gradients);
  sink.gradients.clear();
  sink.dispose();
  await options.onMicrobatch?.();
  return { gradients, nll: losses.reduce((sum, loss) => sum + loss, 0), tokens: losses.length };
}

function clipInto(
  sums: Gradients,
  gradients: Gradients,
  group: readonly number[],
  norms: Float64Array,
  clipFactor: (norm: number) => number,
): void {
  const tf = tensorflow();
  const squares = tf.tidy(() => tf.addN([...gradients.values()].map(g => tf.sum(tf.square(g), 1))));
  const found = Array.from(squares.dataSync(), Math.sqrt);
  squares.dispose();
  found.forEach((norm, i) => {
    norms[group[i]!] = norm;
  });
  const finite = found.map(Number.isFinite);
  const factors = found.map((norm, i) => (finite[i] ? clipFactor(norm) : 0));
  tf.tidy(() => {
    const row = tf.tensor2d(factors, [1, factors.length]);
    const mask = finite.every(Boolean) ? undefined : tf.tensor2d(finite, [finite.length, 1], 'bool');
    for (const [key, gradient] of gradients) {
      const safe =
        mask === undefined
          ? gradient
          : tf.where(tf.broadcastTo(mask, gradient.shape), gradient, tf.zerosLike(gradient));
      accumulate(sums, key, matMul(row, safe));
    }
  });
}

/** From [1, parameters] back to the parameters' own shapes; a key that no unit reached gets zeros. */
function restoreShapes(model: EngineModel, trainable: Trainable, sums: Gradients): void {
  const tf = tensorflow();
  for (const key of trainable.keys) {
    const shape = parameterOf(model, trainable.adapter, key).shape;
    const flat = sums.get(key);
    sums.set(key, flat === undefined ? tf.zeros(shape) : flat.reshape(shape));
    flat?.dispose();
  }
}

/** The tensor behind a trainable key. */
export function parameterOf(model: EngineModel, adapter: EngineAdapter | undefined, key: string): Tensor {
  const match = /^(.*)\.lora_([ab])$/.exec(key);
  if (match === null) return model.parameter(key);
  return adapter!.pairs.get(match[1]!)![match[2] as 'a' | 'b'];
}
