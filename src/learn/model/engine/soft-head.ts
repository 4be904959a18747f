/**
 * The vocabulary head against a teacher's distribution: KL(teacher || model), row by row. The teacher is kept as its k most likely
 * tokens and the mass of the rest, which is compared as a whole: a lower bound on the divergence (data processing), exact when k is
 * the vocabulary.
 */
import { invalid, LearndError } from '../../../base/errors.ts';
import type { Tensor } from '../../tensor/backend.ts';
import { tensorflow } from '../../tensor/backend.ts';
import { matMul } from '../../tensor/native.ts';
import type { ScoredRows } from './batch.ts';
import { chunkRows, type HeadPass, headName, spread, vocabularyLogits } from './head.ts';
import type { EngineModel } from './model.ts';
import { rmsNorm, rmsNormBackward } from './ops.ts';

/** [rows, k], row-major; a row's probabilities sum to at most 1. */
export interface SoftTargets {
  readonly k: number;
  readonly tokens: Int32Array;
  readonly probabilities: Float32Array;
}

/** Mass that is too small to take a logarithm of in float32 counts as none. */
const LEAST = 1e-7;

/**
 * A teacher's distributions of the scored rows: k numbers a row instead of the vocabulary's.
 * @param hidden [batch * length, hidden], the teacher's last block's output. Not disposed.
 */
export function teacherTargets(
  model: EngineModel,
  hidden: Tensor,
  scored: Pick<ScoredRows, 'rows'>,
  k: number,
  tokenBias?: Tensor,
): SoftTargets {
  const tf = tensorflow();
  const { vocabSize, rmsEps } = model.config;
  if (!Number.isInteger(k) || k < 1 || k > vocabSize)
    throw invalid('k', `the teacher's tokens a row must be from 1 to ${vocabSize}, not ${k}`);
  const count = scored.rows.length;
  const tokens = new Int32Array(count * k);
  const probabilities = new Float32Array(count * k);
  const chunk = chunkRows(vocabSize);
  for (let at = 0; at < count; at += chunk) {
    const end = Math.min(at + chunk, count);
    tf.tidy(() => {
      const h = rmsNorm(
        tf.gather(hidden, tf.tensor1d(scored.rows.slice(at, end), 'int32')),
        model.parameter('model.norm.weight'),
        rmsEps,
      ).y;
      let logits = vocabularyLogits(model.parameter(headName(model)), h);
      if (tokenBias !== undefined) logits = tf.add(logits, tokenBias);
      const { values, indices } = tf.topk(tf.softmax(logits), k, false);
      tokens.set(indices.dataSync() as Int32Array, at * k);
      probabilities.set(values.dataSync() as Float32Array, at * k);
    });
  }
  return { k, tokens, probabilities };
}

/**
 * A head pass whose loss is the divergence from these targets instead of the labels' cross-entropy: with p the model and q the
 * teacher, sum over the kept tokens of q log(q / p) + rest_q log(rest_q / rest_p). Gradient with respect to a logit: p - q for a kept
 * token, p (1 - rest_q / rest_p) for another.
 * @returns nats a scored row, unweighted, in the order of the targets.
 */
export const softHead =
  ({ k, tokens, probabilities }: SoftTargets): HeadPass =>
  (model, hidden, scored, { tokenBias, sink, trainHead = false } = {}) => {
    const tf = tensorflow();
    const count = scored.rows.length;
    if (tokens.length !== count * k)
      throw new LearndError('internal', `targets of ${tokens.length / k} rows for ${count} scored rows`);
    const losses = new Float32Array(count);
    const weight = model.parameter(headName(model));
    const scale = model.parameter('model.norm.weight');
    const { vocabSize, rmsEps } = model.config;
    const chunk = chunkRows(vocabSize);
    const dHidden = tf.tidy(() => {
      const norm = rmsNorm(hidden, scale, rmsEps);
      const pieces: Tensor[] = [];
      for (let at = 0; at < count; at += chunk) {
        const end = Math.min(at + chunk, count);
        const piece = tf.tidy(() => {
          const rows = end - at;
          const h = tf.gather(norm.y, tf.tensor1d(scored.rows.slice(at, end), 'int32'));
          let logits = vocabularyLogits(weight, h);
          if (tokenBias !== undefined) logits = tf.add(logits, tokenBias);
          const p = tf.softmax(logits);
          const kept = tf.tensor2d(tokens.slice(at * k, end * k), [rows, k], 'int32');
          const q = tf.tensor2d(probabilities.slice(at * k, end * k), [rows, k]);
          const logP = tf.gather(tf.logSoftmax(logits), kept, 1, 1);
          const pKept = tf.exp(logP);
          const restQ = tf.relu(tf.sub(1, tf.sum(q, 1, true)));
          const restP = tf.maximum(tf.sub(1, tf.sum(pKept, 1, true)), LEAST);
          const compared = k < vocabSize ? tf.cast(tf.greater(restQ, LEAST), 'float32') : tf.zerosLike(restQ);
          const rest = tf.mul(compared, tf.mul(restQ, tf.log(tf.div(tf.maximum(restQ, LEAST), restP))));
          const known = tf.sum(tf.mul(q, tf.sub(tf.log(tf.maximum(q, 1e-30)), logP)), 1, true);
          losses.set(tf.add(known, rest).dataSync(), at);
          if (sink === undefined) return undefined;
          // Where the rest is not compared its logits are only held by the normalisation.
          const factor = tf.sub(1, tf.mul(compared, tf.div(restQ, restP)));
          const index = new Int32Array(rows * k * 2);
          for (let i = 0; i < rows * k; i++) {
            index[2 * i] = Math.floor(i / k);
            index[2 * i + 1] = tokens[at * k + i]!;
          }
          const change = tf.sub(tf.mul(pKept, tf.sub(1, factor)), q);
          const scattered = tf.scatterND(tf.tensor2d(index, [rows * k, 2], 'int32'), tf.reshape(change, [rows * k]), [
            rows,
            vocabSize,
          ]);
          const gradient = tf.add(tf.mul(p, factor), scattered);
          const rowWeights = tf.tensor2d(scored.weights.slice(at, end), [rows, 1]);
          if (trainHead) sink.weight(headName(model), () => tf.mul(h, rowWeights), gradient);
          return tf.mul(matMul(gradient, weight), rowWeights);
        });
        if (piece !== undefined) pieces.push(piece);
      }
      if (sink === undefined) return undefined;
      const dNormed = spread(pieces, scored.rows, hidden.shape as [number, number]);
      sink.scale('model.norm.weight', dNormed, norm.unit);
      return rmsNormBackward(dNormed, scale, norm);
    });
    return { losses, dHidden };
  };
