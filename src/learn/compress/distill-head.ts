/**
 * Losses of distillation as passes of the vocabulary head. Off-policy: tau^2 KL(teacher || student) at temperature tau (Hinton et al.,
 * 1503.02531) against the teacher's k most likely tokens and the mass of the rest, with a share of the labels' cross-entropy.
 * On-policy: the generalised Jensen-Shannon divergence of GKD (2306.13649), mixed in probability space, against the teacher itself.
 */
import { LearndError } from '../../base/errors.ts';
import type { ScoredRows, TokenBatch } from '../model/engine/batch.ts';
import { forwardTokens } from '../model/engine/forward.ts';
import { chunkRows, type HeadPass, headName, spread, vocabularyLogits } from '../model/engine/head.ts';
import type { EngineAdapter, EngineModel } from '../model/engine/model.ts';
import { type GradientSink, rmsNorm, rmsNormBackward } from '../model/engine/ops.ts';
import type { SoftTargets } from '../model/engine/soft-head.ts';
import type { Tensor } from '../tensor/backend.ts';
import { tensorflow } from '../tensor/backend.ts';
import { matMul } from '../tensor/native.ts';

/** Mass too small to take a logarithm of in float32 counts as none. */
const LEAST = 1e-7;
const TINY = 1e-30;

/** The loss of some rows and its gradient with respect to their logits. Inside the caller's tidy. */
type RowLoss = (logits: Tensor, at: number, end: number) => { loss: Tensor; gradient: Tensor };

/** A head pass from a loss by rows: the gradients of head, final norm and hidden state around it. */
const headPass =
  (rowLoss: (scored: ScoredRows) => RowLoss): HeadPass =>
  (model, hidden, scored, { tokenBias, sink, trainHead = false } = {}) => {
    const tf = tensorflow();
    const count = scored.rows.length;
    const losses = new Float32Array(count);
    const weight = model.parameter(headName(model));
    const scale = model.parameter('model.norm.weight');
    const { vocabSize, rmsEps } = model.config;
    const chunk = chunkRows(vocabSize);
    const dHidden = tf.tidy(() => {
      const lossOf = rowLoss(scored);
      const norm = rmsNorm(hidden, scale, rmsEps);
      const pieces: Tensor[] = [];
      for (let at = 0; at < count; at += chunk) {
        const end = Math.min(at + chunk, count);
        const piece = tf.tidy(() => {
          const h = tf.gather(norm.y, tf.tensor1d(scored.rows.slice(at, end), 'int32'));
          const plain = vocabularyLogits(weight, h);
          const { loss, gradient } = lossOf(tokenBias === undefined ? plain : tf.add(plain, tokenBias), at, end);
          losses.set(loss.dataSync() as Float32Array, at);
          if (sink === undefined) return undefined;
          const rowWeights = tf.tensor2d(scored.weights.slice(at, end), [end - at, 1]);
          if (trainHead) sink.weight(headName(model), () => tf.mul(h, rowWeights), gradient);
          return tf.mul(matMul(gradient, weight), rowWeights);
        });
        if (piece !== undefined) pieces.push(piece);
      }
      return sink === undefined ? undefined : backThroughNorm(pieces, scored, hidden, { sink, scale, norm });
    });
    return { losses, dHidden };
  };

function backThroughNorm(
  pieces: Tensor[],
  scored: ScoredRows,
  hidden: Tensor,
  { sink, scale, norm }: { sink: GradientSink; scale: Tensor; norm: { unit: Tensor; inverse: Tensor } },
): Tensor {
  const dNormed = spread(pieces, scored.rows, hidden.shape as [number, number]);
  sink.scale('model.norm.weight', dNormed, norm.unit);
  return rmsNormBackward(dNormed, scale, norm);
}

export interface KlSettings {
  /** tau, for teacher and student alike. */
  readonly temperature: number;
  /** Share of the labels' cross-entropy at temperature 1; the divergence has the rest. */
  readonly labels: number;
}

/**
 * `labels` * cross-entropy + (1 - `labels`) * tau^2 * KL(teacher || student) at temperature tau, against cached targets. The tokens
 * that are not among the teacher's k count as one event: a lower bound on the divergence, exact when k is the vocabulary.
 * @param targets Of temperature tau, in the order of the scored rows (`teacherTopK`).
 */
export const klHead = (targets: SoftTargets, { temperature, labels }: KlSettings): HeadPass =>
  headPass(scored => {
    const { k, tokens, probabilities } = targets;
    if (tokens.length !== scored.rows.length * k)
      throw new LearndError('internal', `targets of ${tokens.length / k} rows for ${scored.rows.length} scored rows`);
    return (logits, at, end) => {
      const tf = tensorflow();
      const rows = end - at;
      const vocabSize = logits.shape[1]!;
      const scaled = temperature === 1 ? logits : tf.div(logits, temperature);
      const logP = tf.logSoftmax(scaled);
      const p = tf.exp(logP);
      const kept = tf.tensor2d(tokens.slice(at * k, end * k), [rows, k], 'int32');
      const q = tf.tensor2d(probabilities.slice(at * k, end * k), [rows, k]);
      const logKept = tf.gather(logP, kept, 1, 1);
      const pKept = tf.exp(logKept);
      const restQ = tf.relu(tf.sub(1, tf.sum(q, 1, true)));
      const restP = tf.maximum(tf.sub(1, tf.sum(pKept, 1, true)), LEAST);
      const compared = k < vocabSize ? tf.cast(tf.greater(restQ, LEAST), 'float32') : tf.zerosLike(restQ);
      const rest = tf.mul(compared, tf.mul(restQ, tf.log(tf.div(tf.maximum(restQ, LEAST), restP))));
      const divergence = tf.add(tf.sum(tf.mul(q, tf.sub(tf.log(tf.maximum(q, TINY)), logKept)), 1, true), rest);
      // d KL / d (z / tau) is p - q for a kept token and p (1 - rest_q / rest_p) for another; tau^2 leaves one tau.
      const factor = tf.sub(1, tf.mul(compared, tf.div(restQ, restP)));
      const change = scatter(tf.sub(tf.mul(pKept, tf.sub(1, factor)), q), tokens.subarray(at * k, end * k), vocabSize);
      const slope = tf.mul(tf.add(tf.mul(p, factor), change), (1 - labels) * temperature);
      const soft = tf.mul(divergence, (1 - labels) * temperature ** 2);
      if (labels === 0) return { loss: tf.reshape(soft, [rows]), gradient: slope };
      const hard = tf.logSoftmax(logits);
      const wanted = scored.labels.slice(at, end);
      const picked = tf.gather(hard, tf.tensor2d(wanted, [rows, 1], 'int32'), 1, 1);
      const loss = tf.sub(soft, tf.mul(picked, labels));
      const toward = tf.sub(tf.exp(hard), tf.oneHot(tf.tensor1d(wanted, 'int32'), vocabSize));
      return { loss: tf.reshape(loss, [rows]), gradient: tf.add(slope, tf.mul(toward, labels)) };
    };
  });

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

export interface Teacher {
  readonly model: EngineModel;
  readonly adapter?: EngineAdapter;
  /** [vocabSize] */
  readonly tokenBias?: Tensor;
}

/** Logits [rows, vocabSize] of the rows `at` .. `end` of a teacher's last block's output. Inside the caller's tidy. */
function teacherLogits({ model, tokenBias }: Teacher, hidden: Tensor, rows: Int32Array): Tensor {
  const tf = tensorflow();
  const h = rmsNorm(
    tf.gather(hidden, tf.tensor1d(rows, 'int32')),
    model.parameter('model.norm.weight'),
    model.config.rmsEps,
  ).y;
  const logits = vocabularyLogits(model.parameter(headName(model)), h);
  return tokenBias === undefined ? logits : tf.add(logits, tokenBias);
}

/** The teacher's k likeliest tokens of each scored row with their probabilities at a temperature. */
export function teacherTopK(
  teacher: Teacher,
  batch: TokenBatch,
  scored: Pick<ScoredRows, 'rows'>,
  k: number,
  temperature: number,
): SoftTargets {
  const tf = tensorflow();
  const hidden = forwardTokens(teacher.model, batch, { adapter: teacher.adapter });
  const count = scored.rows.length;
  const tokens = new Int32Array(count * k);
  const probabilities = new Float32Array(count * k);
  const chunk = chunkRows(teacher.model.config.vocabSize);
  for (let at = 0; at < count; at += chunk)
    tf.tidy(() => {
      const logits = teacherLogits(teacher, hidden, scored.rows.slice(at, Math.min(at + chunk, count)));
      const { values, indices } = tf.topk(tf.softmax(tf.div(logits, temperature)), k, true);
      tokens.set(indices.dataSync() as Int32Array, at * k);
      probabilities.set(values.dataSync() as Float32Array, at * k);
    });
  hidden.dispose();
  return { k, tokens, probabilities };
}

/**
 * GKD's divergence at temperature 1 with m = beta pT + (1 - beta) pS: beta KL(pT || m) + (1 - beta) KL(pS || m). `beta` 0 is
 * KL(pT || pS), 1 is KL(pS || pT), its limits. The teacher reads the batch itself: these sequences were not seen before.
 * d / d pS of the divergence is (1 - beta) log(pS / m): the other terms add up to a constant, which a softmax does not feel.
 */
export const gkdHead = (teacher: Teacher, batch: TokenBatch, beta: number): HeadPass =>
  headPass(scored => {
    const tf = tensorflow();
    // The head pass tidies around this: the state ends with it.
    const hidden = forwardTokens(teacher.model, batch, { adapter: teacher.adapter });
    return (logits, at, end) => {
      const logT = tf.logSoftmax(teacherLogits(teacher, hidden, scored.rows.slice(at, end)));
      return jensenShannon(logT, tf.logSoftmax(logits), beta);
    };
  });

/** From log-probabilities [rows, vocabSize]: the divergence a row, and its gradient with respect to the student's logits. */
export function jensenShannon(logT: Tensor, logS: Tensor, beta: number): { loss: Tensor; gradient: Tensor } {
  const tf = tensorflow();
  const [pT, pS] = [tf.exp(logT), tf.exp(logS)];
  if (beta === 0) return { loss: tf.sum(tf.mul(pT, tf.sub(logT, logS)), 1), gradient: tf.sub(pS, pT) };
  const back = (g: Tensor): Tensor => tf.mul(pS, tf.sub(g, tf.sum(tf.mul(pS, g), 1, true)));
  if (beta === 1) {
    const ratio = tf.sub(logS, logT);
    return { loss: tf.sum(tf.mul(pS, ratio), 1), gradient: back(ratio) };
  }
  const logM = tf.log(tf.maximum(tf.add(tf.mul(pT, beta), tf.mul(pS, 1 - beta)), TINY));
  const ratio = tf.sub(logS, logM);
  const loss = tf.add(
    tf.mul(tf.sum(tf.mul(pT, tf.sub(logT, logM)), 1), beta),
    tf.mul(tf.sum(tf.mul(pS, ratio), 1), 1 - beta),
  );
  return { loss, gradient: back(tf.mul(ratio, 1 - beta)) };
}
