import type { Tensor } from '../../tensor/backend.ts';
import { tensorflow } from '../../tensor/backend.ts';
import { batchMatMul } from '../../tensor/native.ts';
import type { Run } from './unit-rows.ts';

/**
 * Squared norms of per-unit gradients g = G^T A (A [rows, d] a linear layer's input, G [rows, p] the gradient at its output)
 * without g: |g|^2 = sum over pairs of the unit's rows of (a_t . a_s)(g_t . g_s) (Goodfellow 2015, arXiv 1510.01799). A
 * unit's rows are those of all its sequences, so the terms between them count.
 */

/** Floats of gradients made at once where the direct form is used: 64 MB. */
const DIRECT_FLOATS = 16e6;

/**
 * Multiplications decide: Gram t^2 (d + p), direct t d p a unit. The batched products of both run at the same rate here
 * (docs/results/speed.md), and Gram's results are small where the direct form writes and reads d p numbers.
 */
export const usesGram = (rows: number, d: number, p: number): boolean => rows * (d + p) <= d * p;

/** Rows `run` of `x` as [units, rows, width]; whole rows are a view, not a copy. */
export function unitRows(x: Tensor, run: Run): Tensor {
  const tf = tensorflow();
  const [rows, width] = x.shape as [number, number];
  const wanted = run.units * run.rows;
  const part = wanted === rows ? x : tf.slice(x, [run.firstRow, 0], [wanted, width]);
  return tf.reshape(part, [run.units, run.rows, width]);
}

/**
 * [units] squared norms, the runs' units in order, summed over the layers that share the input `a` and differ in their output
 * gradients: the input's Gram matrix is made once for them.
 */
export function squaredNorms(a: Tensor, gradients: readonly Tensor[], runs: readonly Run[]): Tensor {
  const tf = tensorflow();
  return tf.tidy(() =>
    joined(
      runs.map(run => {
        const input = unitRows(a, run);
        const outputs = gradients.map(g => unitRows(g, run));
        const width = outputs.reduce((sum, g) => sum + g.shape[2]!, 0);
        return usesGram(run.rows, a.shape[1]!, width)
          ? gramNorms(input, outputs)
          : added(outputs.map(g => directNorms(input, g)));
      }),
    ),
  );
}

export function joined(parts: Tensor[]): Tensor {
  return parts.length === 1 ? parts[0]! : tensorflow().concat(parts, 0);
}

function added(parts: Tensor[]): Tensor {
  return parts.length === 1 ? parts[0]! : tensorflow().addN(parts);
}

function gramNorms(a: Tensor, gradients: Tensor[]): Tensor {
  const tf = tensorflow();
  const ofGradients = added(gradients.map(g => batchMatMul(g, g, false, true)));
  return tf.sum(tf.mul(batchMatMul(a, a, false, true), ofGradients), [1, 2]);
}

function directNorms(a: Tensor, g: Tensor): Tensor {
  const tf = tensorflow();
  const [units, rows, d] = a.shape as [number, number, number];
  const each = Math.max(1, Math.floor(DIRECT_FLOATS / (d * g.shape[2]!)));
  const parts: Tensor[] = [];
  for (let at = 0; at < units; at += each) {
    const count = Math.min(each, units - at);
    const part = (x: Tensor) => (count === units ? x : tf.slice(x, [at, 0, 0], [count, rows, x.shape[2]!]));
    parts.push(tf.tidy(() => tf.sum(tf.square(batchMatMul(part(g), part(a), true)), [1, 2])));
  }
  return joined(parts);
}
