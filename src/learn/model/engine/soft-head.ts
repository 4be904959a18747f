/**
 * The vocabulary head against a teacher's distribution: KL(teacher || model), row by row. The teacher is kept as its k most likely
 * tokens and the mass of the rest, which is compared as a whole: a lower bound on the divergence (data processing), exact when k is
 * the vocabulary.
 */
import { invalid, LearndError } from '../../../base/errors.ts';
import type { Tensor } from '../../tensor/backend.ts';
import { tensorflow } from '../../tensor/backend.ts';
import type { ScoredRows } from './batch.ts';
import { chunkRows, type HeadPass, headLogits } from './head.ts';
import { headPass } from './head-pass.ts';
import type { EngineModel } from './model.ts';

/** [rows, k], row-major; a row's probabilities sum to at most 1. */
export interface SoftTargets {
  readonly k: number;
  readonly tokens: Int32Array;
  readonly probabilities: Float32Array;
}

/** Mass that is too small to take a logarithm of in float32 counts as none. */
const LEAST = 1e-7;
const TINY = 1e-30;

/**
 * A teacher's distributions of the scored rows: k numbers a row instead of the vocabulary's.
 * @param hidden [batch * length, hidden], the teacher's last block's output. Not disposed.
 * @param options.tokenBias [vocabSize], added to the teacher's logits
 * @param options.temperature Of the teacher's softmax; default 1
 */
export function teacherTargets(
  model: EngineModel,
  hidden: Tensor,
  scored: Pick<ScoredRows, 'rows'>,
  k: number,
  { tokenBias, temperature = 1 }: { tokenBias?: Tensor | undefined; temperature?: number } = {},
): SoftTargets {
  const tf = tensorflow();
  const { vocabSize } = model.config;
  if (!Number.isInteger(k) || k < 1 || k > vocabSize)
    throw invalid('k', `the teacher's tokens a row must be from 1 to ${vocabSize}, not ${k}`);
  const count = scored.rows.length;
  const tokens = new Int32Array(count * k);
  const probabilities = new Float32Array(count * k);
  const chunk = chunkRows(vocabSize);
  for (let at = 0; at < count; at += chunk) {
    tf.tidy(() => {
      let logits = headLogits(model, hidden, scored.rows.slice(at, Math.min(at + chunk, count)));
      if (tokenBias !== undefined) logits = tf.add(logits, tokenBias);
      if (temperature !== 1) logits = tf.div(logits, temperature);
      const { values, indices } = tf.topk(tf.softmax(logits), k, true);
      tokens.set(indices.dataSync() as Int32Array, at * k);
      probabilities.set(values.dataSync() as Float32Array, at * k);
    });
  }
  return { k, tokens, probabilities };
}

/** @throws LearndError('internal') for targets of another number of rows */
export function requireTargets({ k, tokens }: SoftTargets, rows: number): void {
  if (tokens.length !== rows * k)
    throw new LearndError('internal', `targets of ${tokens.length / k} rows for ${rows} scored rows`);
}

/**
 * The divergence of rows `at` .. `end` from their targets: with p the model and q the teacher, sum over the kept tokens of
 * q log(q / p) + rest_q log(rest_q / rest_p). Gradient with respect to a logit: p - q for a kept token, p (1 - rest_q / rest_p) for
 * another. Inside the caller's tidy.
 * @param logits [end - at, vocabSize], at the targets' temperature
 */
export function keptDivergence(
  logits: Tensor,
  { k, tokens, probabilities }: SoftTargets,
  at: number,
  end: number,
): { loss: Tensor; gradient: Tensor } {
  const tf = tensorflow();
  const rows = end - at;
  const vocabSize = logits.shape[1]!;
  const logP = tf.logSoftmax(logits);
  const kept = tf.tensor2d(tokens.slice(at * k, end * k), [rows, k], 'int32');
  const q = tf.tensor2d(probabilities.slice(at * k, end * k), [rows, k]);
  const logKept = tf.gather(logP, kept, 1, 1);
  const pKept = tf.exp(logKept);
  const restQ = tf.relu(tf.sub(1, tf.sum(q, 1, true)));
  const restP = tf.maximum(tf.sub(1, tf.sum(pKept, 1, true)), LEAST);
  const compared = k < vocabSize ? tf.cast(tf.greater(restQ, LEAST), 'float32') : tf.zerosLike(restQ);
  const rest = tf.mul(compared, tf.mul(restQ, tf.log(tf.div(tf.maximum(restQ, LEAST), restP))));
  const known = tf.sum(tf.mul(q, tf.sub(tf.log(tf.maximum(q, TINY)), logKept)), 1, true);
  // Where the rest is not compared its logits are only held by the normalisation.
  const factor = tf.sub(1, tf.mul(compared, tf.div(restQ, restP)));
  const change = scatter(tf.sub(tf.mul(pKept, tf.sub(1, factor)), q), tokens.subarray(at * k, end * k), vocabSize);
  return {
    loss: tf.reshape(tf.add(known, rest), [rows]),
    gradient: tf.add(tf.mul(tf.exp(logP), factor), change),
  };
}

/** [rows, k] values at their tokens in [rows, vocabSize], zero elsewhere. */
function scatter(values: Tensor, tokens: Int32Array, vocabSize: number): Tensor {
  const tf = tensorflow();
  const [rows, k] = values.shape as [number, number];
  const index = new Int32Array(rows * k * 2);
  for (let i = 0; i < rows * k; i++) {
    index[2 * i] = Math.floor(i / k);
    index[2 * i + 1] = tokens[i]!;
  }
  return tf.scatterND(tf.tensor2d(index, [rows * k, 2], 'int32'), tf.reshape(values, [rows * k]), [rows, vocabSize]);
}

/**
 * A head pass whose loss is the divergence from these targets instead of the labels' cross-entropy.
 * @returns nats a scored row, unweighted, in the order of the targets.
 */
export const softHead = (targets: SoftTargets): HeadPass =>
  headPass(scored => {
    requireTargets(targets, scored.rows.length);
    return (logits, at, end) => keptDivergence(logits, targets, at, end);
  });
