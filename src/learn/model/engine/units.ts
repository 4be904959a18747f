import type { Tensor } from '../../tensor/backend.ts';
import { tensorflow } from '../../tensor/backend.ts';
import { lossBackward, lowerBlocks } from './backward.ts';
import {
  type Attention,
  attentionBatch,
  groupByLength,
  type ScoredRows,
  scoredRows,
  type TokenBatch,
} from './batch.ts';
import { BookkeepingSink } from './bookkeeping.ts';
import type { HeadPass } from './head.ts';
import { type EngineAdapter, type EngineModel, parameterOf } from './model.ts';
import type { GradientSink } from './ops.ts';
import { accumulate, disposeGradients, type Gradients, SumSink } from './sinks.ts';

export { parameterOf } from './model.ts';

/** One training sequence. `mask[t]` says whether token t is scored (never the first); absent: all but the first are. */
export interface Example extends Attention {
  readonly tokens: readonly number[];
  readonly mask?: readonly boolean[];
  /** What the output at each position must predict, below 0: nothing. In place of the next token and of `mask`. */
  readonly targets?: readonly number[];
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
  /** None of the model's matrices among the keys (norm scales, biases, LoRA): units' gradients are held side by side. */
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
    const batch = attentionBatch(examples, model.config);
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
  /** Bound on what the blocks keep for the backward pass; beyond it they run forward again. Default 1.5 GiB. */
  readonly activationBytes?: number;
  /** [vocabSize], part of the model that is trained: a vocabulary bias released before. Not disposed. */
  readonly tokenBias?: Tensor;
  /** Another loss than cross-entropy for these examples, whose scored rows come in their order (distillation). */
  readonly head?: (examples: readonly Example[], batch: TokenBatch) => HeadPass;
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
export function scoredTokens({ tokens, mask, targets }: Example): number {
  if (targets !== undefined) return targets.reduce((count, target) => count + (target >= 0 ? 1 : 0), 0);
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
    const batch = attentionBatch(members, model.config);
    const scored = scoredRows(
      batch,
      (b, count) => options.tokenWeight?.(members[b]!) ?? weight(count),
      members.map(m => m.mask),
      members.map(m => m.targets),
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
  scored: ScoredRows,
  sink: GradientSink,
  { adapter, from, vocabulary }: Trainable,
  { cache, tokenBias, head }: PassOptions,
): Float32Array {
  const input = from > 0 && cache !== undefined ? cache.input(model, batch, members, { from, adapter }) : undefined;
  const losses = lossBackward(model, batch, scored, sink, {
    ...{ adapter, from, input, vocabulary, tokenBias },
    ...(head && { head: head(members, batch) }),
  });
  input?.dispose();
  return losses;
}

export interface ClippedResult extends PassResult {
  /** Norm of each unit's gradient before clipping, in the order given (not private: for tests and diagnosis). */
  readonly norms: Float64Array;
}

/**
 * The sum over units of clipFactor(norm, its index) * gradient, a unit's gradient being the mean over its examples of the gradient of
 * the example's mean loss. Exact: a unit's examples are added up before the norm, whatever the microbatches. A unit whose
 * gradient is not finite, or that has nothing scored, adds nothing (a factor of 0 would not do: 0 * NaN is NaN).
 */
export async function clippedUnitGradients(
  model: EngineModel,
  units: readonly (readonly Example[])[],
  trainable: Trainable,
  clipFactor: (norm: number, unit: number) => number,
  options: PassOptions,
): Promise<ClippedResult> {
  const sums: Gradients = new Map();
  const norms = new Float64Array(units.length);
  let nll = 0;
  let tokens = 0;
  const useful = units.map(unit => unit.filter(example => scoredTokens(example) > 0));
  try {
    for (const group of groupUnits(model, useful, trainable, options.maxTokens)) {
      const members = group.map(u => useful[u]!);
      const alone = group.length === 1 && isAlone(model, members[0]!, trainable, options.maxTokens);
      const factor = (norm: number, i: number) => clipFactor(norm, group[i]!);
      const part = alone
        ? await oneUnit(model, members[0]!, trainable, factor, sums, options)
        : severalUnits(model, members, trainable, factor, sums, options);
      part.norms.forEach((norm, i) => {
        norms[group[i]!] = norm;
      });
      nll += part.nll;
      tokens += part.tokens;
      if (!alone) await options.onMicrobatch?.();
    }
  } catch (error) {
    disposeGradients(sums);
    throw error;
  }
  const tf = tensorflow();
  for (const key of trainable.keys)
    if (!sums.has(key)) sums.set(key, tf.zeros(parameterOf(model, trainable.adapter, key).shape));
  return { gradients: sums, norms, nll, tokens };
}

const longest = (unit: readonly Example[]): number => unit.reduce((most, e) => Math.max(most, e.tokens.length), 0);

/** Logits of one unit at a time, in floats, when the vocabulary is trained: 256 MB. */
const MAX_UNIT_LOGITS = 64e6;

/** A unit that does not fit one microbatch: its gradient is materialised. */
function isAlone(model: EngineModel, unit: readonly Example[], { vocabulary }: Trainable, maxTokens: number): boolean {
  const tokens = longest(unit) * unit.length;
  return tokens > maxTokens || (vocabulary && tokens * model.config.vocabSize > MAX_UNIT_LOGITS);
}

/** Bound on the floats of the units' gradients held side by side: 256 MB. */
const MAX_UNIT_FLOATS = 64e6;

/** Numbers whose gradients are held unit by unit: norm scales, biases, LoRA. Matrices of the model are kept as their factors. */
function sideBySide(model: EngineModel, { keys, adapter, size, small }: Trainable): number {
  if (small) return size;
  let sum = 0;
  for (const key of keys) {
    const parameter = parameterOf(model, adapter, key);
    if (parameter.rank === 1 || /\.lora_[ab]$/.test(key)) sum += parameter.size;
  }
  return sum;
}

/** Whole units a microbatch, alike in length and in number of examples; a unit too large for one is alone. */
function groupUnits(
  model: EngineModel,
  units: readonly (readonly Example[])[],
  trainable: Trainable,
  maxTokens: number,
): number[][] {
  const order = units
    .map((_, u) => u)
    .filter(u => units[u]!.length > 0)
    .sort((a, b) => longest(units[b]!) - longest(units[a]!) || units[b]!.length - units[a]!.length || a - b);
  const most = Math.max(1, Math.floor(MAX_UNIT_FLOATS / Math.max(1, sideBySide(model, trainable))));
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
    if (isAlone(model, unit, trainable, maxTokens)) {
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

interface Part {
  readonly norms: readonly number[];
  readonly nll: number;
  readonly tokens: number;
}

/** One unit, its gradient materialised, its examples in as many microbatches as they need. */
async function oneUnit(
  model: EngineModel,
  unit: readonly Example[],
  trainable: Trainable,
  clipFactor: (norm: number, unit: number) => number,
  sums: Gradients,
  options: PassOptions,
): Promise<Part> {
  const tf = tensorflow();
  const weight = (count: number) => 1 / (count * unit.length);
  const { gradients, nll, tokens } = await summedGradient(model, unit, weight, trainable, options);
  const square = tf.tidy(() => tf.addN([...gradients.values()].map(g => tf.sum(tf.square(g)))).dataSync()[0]!);
  const norm = Math.sqrt(square);
  if (Number.isFinite(norm)) {
    const factor = clipFactor(norm, 0);
    tf.tidy(() => {
      for (const [key, gradient] of gradients) accumulate(sums, key, tf.mul(gradient, factor));
    });
  }
  disposeGradients(gradients);
  return { norms: [norm], nll, tokens };
}

/** Several units in one microbatch, by book-keeping. */
function severalUnits(
  model: EngineModel,
  units: readonly (readonly Example[])[],
  trainable: Trainable,
  clipFactor: (norm: number, unit: number) => number,
  sums: Gradients,
  options: PassOptions,
): Part {
  const members = units.flat();
  const unitOfSequence = Int32Array.from(units.flatMap((unit, u) => unit.map(() => u)));
  const batch = attentionBatch(members, model.config);
  const scored = scoredRows(
    batch,
    (b, count) => options.tokenWeight?.(members[b]!) ?? 1 / (count * units[unitOfSequence[b]!]!.length),
    members.map(m => m.mask),
    members.map(m => m.targets),
  );
  const sink = new BookkeepingSink(model, trainable, batch, scored, unitOfSequence, units.length);
  try {
    const losses = pass(model, batch, members, scored, sink, trainable, options);
    const norms = sink.norms();
    sink.addSum(
      norms.map((norm, u) => (Number.isFinite(norm) ? clipFactor(norm, u) : undefined)),
      sums,
    );
    return { norms, nll: losses.reduce((sum, loss) => sum + loss, 0), tokens: losses.length };
  } finally {
    sink.dispose();
  }
}
