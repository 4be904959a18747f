import { LearndError } from '../../../base/errors.ts';
import type { Tensor } from '../../tensor/backend.ts';
import { tensorflow } from '../../tensor/backend.ts';
import { batchMatMul, matMul } from '../../tensor/native.ts';
import type { ScoredRows, TokenBatch } from './batch.ts';
import { type EngineAdapter, type EngineModel, parameterOf } from './model.ts';
import type { GradientSink, HeadPart } from './ops.ts';
import { accumulate, type Gradients, UnitSink } from './sinks.ts';
import { squaredNorms, unitRows } from './unit-norms.ts';
import { countsByUnit, type Run, runsOf, unitChunks } from './unit-rows.ts';

/** Linear layers that share an input: it, and the gradients at their outputs. */
interface Kept {
  readonly x: Tensor;
  readonly layers: readonly { readonly name: string; readonly dy: Tensor }[];
}

/** A chunk of the vocabulary head. Without `gradient` it is made again for the sum: it is the widest tensor of a pass. */
interface KeptHead extends Omit<HeadPart, 'gradient'> {
  readonly name: string;
  readonly gradient: Tensor | undefined;
}

/** Logit gradients kept between norms and sum; beyond, they are made again (one product more). 192 MB. */
const KEPT_LOGIT_BYTES = 192 * 2 ** 20;

/**
 * Book-keeping (Bu et al. 2022, arXiv 2210.00038): one forward and one backward pass give every unit's gradient norm and,
 * once the clip factors are known, the clipped sum. Each linear layer's input and output gradient are kept; norms come from
 * them without the units' gradients, and the sum is one product a layer with the factors on its narrower side. Norm scales,
 * biases and LoRA are small: their units' gradients are held side by side (`UnitSink`).
 *
 * The matrix that is embedding and head at once needs the term between its two gradients: with E_u the embedding's gradient
 * of unit u, non-zero only in the rows of the tokens that u reads, and O_u the head's, 2 <E_u, O_u> asks for those rows of O_u
 * alone, which the head's logit gradient gathered at those tokens gives.
 */
export class BookkeepingSink implements GradientSink {
  readonly headEnds: (rows: number) => number[];
  readonly #model: EngineModel;
  readonly #wanted: ReadonlySet<string>;
  readonly #adapter: EngineAdapter | undefined;
  readonly #units: number;
  readonly #runs: readonly Run[];
  readonly #sequences: readonly number[];
  readonly #length: number;
  readonly #headCounts: readonly number[];
  readonly #scored: ScoredRows;
  readonly #unitOfSequence: Int32Array;
  readonly #tokens: UnitTokens | undefined;
  readonly #direct: UnitSink;
  readonly #squares: Tensor[] = [];
  readonly #layers: Kept[] = [];
  readonly #heads: KeptHead[] = [];
  /** Of a tied matrix: the head's gradient at the tokens each unit reads, [units, most tokens, hidden]. */
  readonly #atTokens: { run: Run; rows: Tensor }[] = [];
  #embedding: { name: string; d: Tensor } | undefined;
  #logitBytes = 0;

  /** @param unitOfSequence Non-decreasing. */
  constructor(
    model: EngineModel,
    trainable: { readonly keys: ReadonlySet<string>; readonly adapter?: EngineAdapter },
    batch: TokenBatch,
    scored: ScoredRows,
    unitOfSequence: Int32Array,
    units: number,
  ) {
    this.#model = model;
    this.#wanted = trainable.keys;
    this.#adapter = trainable.adapter;
    this.#units = units;
    this.#length = batch.length;
    this.#scored = scored;
    this.#unitOfSequence = unitOfSequence;
    this.#sequences = countsByUnit(unitOfSequence, units);
    this.#runs = runsOf(this.#sequences.map(count => count * batch.length));
    this.#headCounts = countsByUnit(
      scored.sequence.map(sequence => unitOfSequence[sequence]!),
      units,
    );
    this.headEnds = most => unitChunks(this.#headCounts, most);
    this.#direct = new UnitSink(trainable.keys, batch, unitOfSequence, units);
    if (trainable.keys.has('model.embed_tokens.weight'))
      this.#tokens = unitTokens(batch, unitOfSequence, this.#sequences);
  }

  weight(name: string, x: () => Tensor, dy: Tensor): void {
    this.weights([{ name, dy }], x);
  }

  weights(layers: readonly { name: string; dy: Tensor }[], x: () => Tensor): void {
    const tf = tensorflow();
    const wanted = layers.filter(({ name }) => this.#wanted.has(name));
    if (wanted.length === 0) return;
    const input = x();
    if (input.shape[0] !== this.#unitOfSequence.length * this.#length)
      throw new LearndError('internal', `${wanted[0]!.name}: ${input.shape[0]} rows are not those of the batch`);
    const keep = (t: Tensor) => tf.keep(tf.clone(t));
    this.#layers.push({ x: keep(input), layers: wanted.map(({ name, dy }) => ({ name, dy: keep(dy) })) });
    this.#squares.push(
      tf.keep(
        squaredNorms(
          input,
          wanted.map(({ dy }) => dy),
          this.#runs,
        ),
      ),
    );
  }

  head(name: string, part: HeadPart): void {
    const tf = tensorflow();
    if (!this.#wanted.has(name)) return;
    const { h, weights, gradient, at, again } = part;
    const end = at + h.shape[0]!;
    const runs = this.#headRuns(at, end);
    const weighted = tf.mul(h, weights);
    const squares = squaredNorms(weighted, [gradient], runs);
    this.#squares.push(tf.keep(this.#placed(squares, runs)));
    if (this.#model.config.tied) {
      for (const run of runs) this.#atTokens.push({ run, rows: this.#headAtTokens(run, gradient, weighted) });
    }
    const bytes = 4 * gradient.size;
    const keeps = this.#logitBytes + bytes <= KEPT_LOGIT_BYTES;
    if (keeps) this.#logitBytes += bytes;
    this.#heads.push({
      name,
      at,
      again,
      h: tf.keep(tf.clone(h)),
      weights: tf.keep(tf.clone(weights)),
      gradient: keeps ? tf.keep(tf.clone(gradient)) : undefined,
    });
  }

  /** The runs of units whose scored rows are `at` .. `end` - 1, their rows counted from `at`. */
  #headRuns(at: number, end: number): Run[] {
    let row = 0;
    let first = 0;
    while (row < at) row += this.#headCounts[first++]!;
    let last = first;
    while (row < end) row += this.#headCounts[last++]!;
    return runsOf(this.#headCounts.slice(first, last)).map(run => ({ ...run, firstUnit: run.firstUnit + first }));
  }

  /** [units of these runs] as [units] with zeros elsewhere. */
  #placed(values: Tensor, runs: readonly Run[]): Tensor {
    const before = runs[0]!.firstUnit;
    const last = runs.at(-1)!;
    return tensorflow().pad(values as never, [[before, this.#units - last.firstUnit - last.units]]);
  }

  #headAtTokens(run: Run, gradient: Tensor, weighted: Tensor): Tensor {
    const tf = tensorflow();
    return tf.tidy(() => {
      const { tokens, most } = this.#tokens!;
      const ids = tf.tensor2d(
        tokens.subarray(run.firstUnit * most, (run.firstUnit + run.units) * most),
        [run.units, most],
        'int32',
      );
      const columns = tf.gather(unitRows(gradient, run), ids, 2, 1);
      return tf.keep(batchMatMul(columns, unitRows(weighted, run), true));
    });
  }

  embedding(name: string, d: Tensor): void {
    const tf = tensorflow();
    if (!this.#wanted.has(name)) return;
    const { segmentOfRow, most } = this.#tokens!;
    this.#embedding = { name, d: tf.keep(tf.clone(d)) };
    const segments = tf.unsortedSegmentSum(d, tf.tensor1d(segmentOfRow, 'int32'), this.#units * most);
    const byUnit = tf.reshape(segments, [this.#units, most, d.shape[1]!]);
    this.#squares.push(tf.keep(tf.sum(tf.square(byUnit), [1, 2])));
    for (const { run, rows } of this.#atTokens) {
      const own = tf.slice(byUnit, [run.firstUnit, 0, 0], [run.units, most, d.shape[1]!]);
      const cross = tf.mul(tf.sum(tf.mul(own, rows), [1, 2]), 2);
      this.#squares.push(tf.keep(this.#placed(cross, [run])));
      rows.dispose();
    }
    this.#atTokens.length = 0;
  }

  weightGradient(name: string): void {
    if (this.#wanted.has(name)) throw new LearndError('internal', `the gradient of ${name} came summed over the units`);
  }
  bias(name: string, dy: Tensor): void {
    this.#direct.bias(name, dy);
  }
  scale(name: string, dy: Tensor, unit: Tensor): void {
    this.#direct.scale(name, dy, unit);
  }
  lora(name: string, parts: Parameters<UnitSink['lora']>[1]): void {
    this.#direct.lora(name, parts);
  }

  /** Each unit's gradient norm. Rounding may leave a sum of squares just below zero: that is zero. */
  norms(): number[] {
    const tf = tensorflow();
    const units = this.#units;
    const [ofMatrices, direct] = tf.tidy(() => {
      // Small gradients, often hundreds: one product each, of whose [units, units] the diagonal is read, in place of two calls.
      const products = [...this.#direct.gradients.values()].map(gradient => matMul(gradient, gradient, false, true));
      const sum = (parts: Tensor[], shape: number[]) => tf.addN([tf.zeros(shape), ...parts]).dataSync();
      return [sum(this.#squares, [units]), sum(products, [units, units])];
    });
    const found = Array.from(ofMatrices, (square, unit) =>
      Math.sqrt(Math.max(0, square + direct[unit * (units + 1)]!)),
    );
    for (const square of this.#squares) square.dispose();
    this.#squares.length = 0;
    return found;
  }

  /**
   * Adds the sum over units of factor * gradient to `sums`, in the parameters' own shapes, letting go of what was kept.
   * A unit whose factor is undefined adds nothing, whatever is in its rows (a factor of 0 would not do: 0 * NaN is NaN).
   */
  addSum(factors: readonly (number | undefined)[], sums: Gradients): void {
    const tf = tensorflow();
    const scale = new RowScale(
      factors,
      this.#sequences.flatMap((count, unit) => new Array(count * this.#length).fill(unit)),
    );
    for (const { x, layers } of this.#layers.splice(0)) {
      tf.tidy(() => {
        // Factors go on the narrower side: the input, or all the output gradients.
        const width = layers.reduce((sum, { dy }) => sum + dy.shape[1]!, 0);
        const onInput = x.shape[1]! <= width;
        const input = onInput ? scale.apply(x) : scale.clean(x);
        for (const { name, dy } of layers)
          accumulate(sums, name, matMul(onInput ? scale.clean(dy) : scale.apply(dy), input, true));
      });
      disposeKept({ x, layers });
    }
    for (const { name, h, weights, gradient, at, again } of this.#heads.splice(0)) {
      tf.tidy(() => {
        const rows = h.shape[0]!;
        const units = Array.from(this.#scored.sequence.subarray(at, at + rows), s => this.#unitOfSequence[s]!);
        const own = new RowScale(factors, units);
        accumulate(sums, name, matMul(own.clean(gradient ?? again(h)), own.apply(tf.mul(h, weights)), true));
        own.dispose();
      });
      for (const tensor of [h, weights, gradient]) tensor?.dispose();
    }
    if (this.#embedding !== undefined) {
      const { name, d } = this.#embedding;
      tf.tidy(() => {
        const ids = tf.tensor1d(this.#tokens!.ids, 'int32');
        accumulate(sums, name, tf.unsortedSegmentSum(scale.apply(d), ids, this.#model.config.vocabSize));
      });
      d.dispose();
      this.#embedding = undefined;
    }
    scale.dispose();
    this.#addDirect(factors, sums);
  }

  #addDirect(factors: readonly (number | undefined)[], sums: Gradients): void {
    const tf = tensorflow();
    tf.tidy(() => {
      const scale = new RowScale(
        factors,
        factors.map((_, unit) => unit),
      );
      const row = tf.tensor2d(
        factors.map(factor => factor ?? 0),
        [1, factors.length],
      );
      for (const [key, gradient] of this.#direct.gradients) {
        const { shape } = parameterOf(this.#model, this.#adapter, key);
        accumulate(sums, key, tf.reshape(matMul(row, scale.clean(gradient)), shape));
      }
      scale.dispose();
    });
  }

  dispose(): void {
    this.#direct.dispose();
    for (const kept of this.#layers) disposeKept(kept);
    for (const { h, weights, gradient } of this.#heads) for (const tensor of [h, weights, gradient]) tensor?.dispose();
    for (const { rows } of this.#atTokens) rows.dispose();
    for (const square of this.#squares) square.dispose();
    this.#embedding?.d.dispose();
  }
}

function disposeKept({ x, layers }: Kept): void {
  x.dispose();
  for (const { dy } of layers) dy.dispose();
}

/** The units' clip factors on rows. */
class RowScale {
  readonly #factors: Tensor;
  /** [rows, 1] of true where the unit takes part; undefined when all do. */
  readonly #mask: Tensor | undefined;
  constructor(factors: readonly (number | undefined)[], unitOfRow: readonly number[]) {
    const tf = tensorflow();
    const rows = unitOfRow.length;
    this.#factors = tf.keep(
      tf.tensor2d(
        Float32Array.from(unitOfRow, unit => factors[unit] ?? 0),
        [rows, 1],
      ),
    );
    if (factors.includes(undefined))
      this.#mask = tf.keep(
        tf.tensor2d(
          Uint8Array.from(unitOfRow, unit => Number(factors[unit] !== undefined)),
          [rows, 1],
          'bool',
        ),
      );
  }
  /** Rows of units that take no part set to zero. */
  clean(x: Tensor): Tensor {
    const tf = tensorflow();
    return this.#mask === undefined ? x : tf.where(tf.broadcastTo(this.#mask, x.shape), x, tf.zerosLike(x));
  }
  apply(x: Tensor): Tensor {
    return tensorflow().mul(this.clean(x), this.#factors);
  }
  dispose(): void {
    this.#factors.dispose();
    this.#mask?.dispose();
  }
}

interface UnitTokens {
  readonly ids: Int32Array;
  /** For each row of the batch: unit * most + the token's place among the tokens of its unit. */
  readonly segmentOfRow: Int32Array;
  /** [units, most]: the different tokens of each unit, then zeros. */
  readonly tokens: Int32Array;
  readonly most: number;
}

/** Padding is token 0 with a gradient of zero, so it may share a segment with a token 0 that is real. */
function unitTokens(batch: TokenBatch, unitOfSequence: Int32Array, sequences: readonly number[]): UnitTokens {
  const places = sequences.map(() => new Map<number, number>());
  const place = Int32Array.from(batch.ids, (id, row) => {
    const seen = places[unitOfSequence[Math.floor(row / batch.length)]!]!;
    if (!seen.has(id)) seen.set(id, seen.size);
    return seen.get(id)!;
  });
  const most = places.reduce((largest, { size }) => Math.max(largest, size), 1);
  const tokens = new Int32Array(places.length * most);
  places.forEach((seen, unit) => {
    for (const [id, at] of seen) tokens[unit * most + at] = id;
  });
  const segmentOfRow = place.map((at, row) => unitOfSequence[Math.floor(row / batch.length)]! * most + at);
  return { ids: batch.ids, segmentOfRow, tokens, most };
}
