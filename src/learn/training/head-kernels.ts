/**
 * One step's sum of clipped mean gradients of a linear softmax classifier, units apart. The two large products run in TensorFlow over
 * all rows at once (77 labels, 2,000 users of 5, hidden 576: .1 s a step on one busy core, where plain JavaScript took 1.2 s); a
 * unit's norm needs only the inner products of its own rows, so nothing of the weights' size is made for each user.
 */
import { type Tensor, tensorflow } from '../tensor/backend.ts';
import { matMul } from '../tensor/native.ts';

export interface UnitRows {
  /** Rows of the feature matrix: from ... to - 1. */
  readonly from: number;
  readonly to: number;
}

/** Constraints on recall while a head is trained: what each unit drawn got right, and what its examples weigh. */
export interface HeadSteering {
  /** Of the example in this row of the feature matrix, in its unit's loss. */
  weight(row: number): number;
  /** Told of each unit drawn, its rows and whether they were right; gives the factor (at most 1) on its clipped gradient. */
  unit(rows: readonly { readonly row: number; readonly correct: boolean }[]): number;
}

interface Chunk {
  readonly units: readonly {
    readonly index: number;
    readonly from: number;
    readonly to: number;
    /** First row in the feature matrix. */
    readonly at: number;
  }[];
  /** [rows, hidden] */
  readonly features: Tensor;
  readonly truth: Int32Array;
  /** Inner products of each unit's rows, lower triangles one after the other. */
  readonly gram: Float64Array;
}

/** Rows of a chunk: bounds memory to some ten megabytes beside the features. */
const CHUNK_ROWS = 16_384;

export class HeadGradients {
  readonly #chunks: Chunk[] = [];
  readonly #labels: number;
  readonly #hidden: number;

  /**
   * @param features [rows, hidden]; @param truth [rows], labels
   * A unit with a feature that is not a finite number counts as absent, as do units that are not drawn.
   */
  constructor(
    features: Float32Array,
    truth: Int32Array,
    units: readonly UnitRows[],
    size: { readonly hidden: number; readonly labels: number },
  ) {
    this.#labels = size.labels;
    this.#hidden = size.hidden;
    let members: { index: number; from: number; to: number; at: number }[] = [];
    let rows = 0;
    const close = (): void => {
      if (members.length > 0) this.#chunks.push(this.#chunk(features, truth, units, members));
      members = [];
      rows = 0;
    };
    units.forEach(({ from, to }, index) => {
      if (!finite(features, from * size.hidden, to * size.hidden)) return;
      if (rows > 0 && rows + to - from > CHUNK_ROWS) close();
      members.push({ index, from: rows, to: rows + to - from, at: from });
      rows += to - from;
    });
    close();
  }

  #chunk(features: Float32Array, truth: Int32Array, units: readonly UnitRows[], members: Chunk['units']): Chunk {
    const hidden = this.#hidden;
    const rows = members.at(-1)!.to;
    const own = new Float32Array(rows * hidden);
    const labels = new Int32Array(rows);
    const gram: number[] = [];
    for (const { index, from, to } of members) {
      const at = units[index]!.from;
      own.set(features.subarray(at * hidden, (at + to - from) * hidden), from * hidden);
      labels.set(truth.subarray(at, at + to - from), from);
      for (let a = from; a < to; a++)
        for (let b = from; b <= a; b++) gram.push(dot(own, a * hidden, b * hidden, hidden));
    }
    const tf = tensorflow();
    // A tensor keeps the JavaScript array until its first op.
    const tensor = tf.tidy(() => tf.keep(tf.add(tf.tensor2d(own, [rows, hidden]), 0)));
    return { units: members, features: tensor, truth: labels, gram: Float64Array.from(gram) };
  }

  /**
   * Adds up over the units drawn: factor(norm of the unit's mean gradient) times that gradient, at these weights [labels, hidden].
   * @param drawn by unit; undefined: all. @returns the sum [labels, hidden] and the units' summed mean losses, nats
   */
  sum(
    weight: Float64Array,
    factor: (norm: number) => number,
    drawn?: readonly number[],
    steering?: HeadSteering,
  ): { sum: Float64Array; loss: number } {
    const tf = tensorflow();
    const labels = this.#labels;
    const taken = drawn && new Set(drawn);
    const total = new Float64Array(weight.length);
    let loss = 0;
    for (const { units, features, truth, gram } of this.#chunks) {
      const errors = valuesOf(() => {
        const rows = tf.tensor2d(new Float32Array(weight), [labels, this.#hidden]);
        return matMul(features, rows, false, true);
      });
      let pair = 0;
      for (const { index, from, to, at } of units) {
        const n = to - from;
        const pairs = (n * (n + 1)) / 2;
        if (taken?.has(index) === false) {
          errors.fill(0, from * labels, to * labels);
          pair += pairs;
          continue;
        }
        const outcomes: { row: number; correct: boolean }[] = [];
        for (let row = from; row < to; row++) {
          loss -= softmaxRow(errors, row * labels, labels, truth[row]!) / n;
          if (steering !== undefined)
            outcomes.push({ row: at + row - from, correct: likeliest(errors, row * labels, labels) === truth[row]! });
          errors[row * labels + truth[row]!]! -= 1;
          const weight = steering?.weight(at + row - from) ?? 1;
          if (weight !== 1) for (let c = 0; c < labels; c++) errors[row * labels + c]! *= weight;
        }
        let square = 0;
        for (let a = from; a < to; a++)
          for (let b = from; b <= a; b++)
            square += (a === b ? 1 : 2) * dot(errors, a * labels, b * labels, labels) * gram[pair++]!;
        const held = steering?.unit(outcomes) ?? 1;
        const scale = (held * factor(Math.sqrt(Math.max(0, square)) / n)) / n;
        for (let i = from * labels; i < to * labels; i++) errors[i]! *= scale;
      }
      const part = valuesOf(() => matMul(tf.tensor2d(errors, [truth.length, labels]), features, true, false));
      for (let i = 0; i < total.length; i++) total[i]! += part[i]!;
    }
    return { sum: total, loss };
  }

  dispose(): void {
    for (const { features } of this.#chunks) features.dispose();
    this.#chunks.length = 0;
  }
}

/** `tidy` walks a typed array that it is given back element by element (.2 s a step here), so the tensor leaves it, not its values. */
function valuesOf(work: () => Tensor): Float32Array {
  const tensor = tensorflow().tidy(work);
  const values = tensor.dataSync() as Float32Array;
  tensor.dispose();
  return values;
}

function finite(values: Float32Array, from: number, to: number): boolean {
  for (let i = from; i < to; i++) if (!Number.isFinite(values[i])) return false;
  return true;
}

function dot(values: Float32Array, a: number, b: number, n: number): number {
  let sum = 0;
  for (let i = 0; i < n; i++) sum += values[a + i]! * values[b + i]!;
  return sum;
}

function likeliest(values: Float32Array, from: number, labels: number): number {
  let best = 0;
  for (let c = 1; c < labels; c++) if (values[from + c]! > values[from + best]!) best = c;
  return best;
}

/** In place on one row of logits: probabilities. Returns the logarithm of the true label's. */
export function softmaxRow(row: Float32Array, from: number, labels: number, truth: number): number {
  let top = Number.NEGATIVE_INFINITY;
  for (let c = 0; c < labels; c++) top = Math.max(top, row[from + c]!);
  const logit = row[from + truth]! - top;
  let total = 0;
  for (let c = 0; c < labels; c++) {
    const power = Math.exp(row[from + c]! - top);
    row[from + c] = power;
    total += power;
  }
  for (let c = 0; c < labels; c++) row[from + c]! /= total;
  return logit - Math.log(total);
}
