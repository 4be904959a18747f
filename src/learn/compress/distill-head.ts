/**
 * Losses of distillation as passes of the vocabulary head. Off-policy: tau^2 KL(teacher || student) at temperature tau (Hinton et al.,
 * 1503.02531) against the teacher's k most likely tokens and the mass of the rest, with a share of the labels' cross-entropy.
 * On-policy: the generalised Jensen-Shannon divergence of GKD (2306.13649), mixed in probability space, against the teacher itself.
 */
import type { ScoredRows, TokenBatch } from '../model/engine/batch.ts';
import { forwardTokens } from '../model/engine/forward.ts';
import { type HeadPass, headLogits } from '../model/engine/head.ts';
import { headPass } from '../model/engine/head-pass.ts';
import type { EngineAdapter, EngineModel } from '../model/engine/model.ts';
import { keptDivergence, requireTargets, type SoftTargets, teacherTargets } from '../model/engine/soft-head.ts';
import type { Tensor } from '../tensor/backend.ts';
import { tensorflow } from '../tensor/backend.ts';

/** Least number whose logarithm is taken. */
const TINY = 1e-30;

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
    requireTargets(targets, scored.rows.length);
    return (logits, at, end) => {
      const tf = tensorflow();
      const soft = keptDivergence(temperature === 1 ? logits : tf.div(logits, temperature), targets, at, end);
      // tau^2 on the divergence; the gradient with respect to z / tau leaves one tau.
      const divergence = tf.mul(soft.loss, (1 - labels) * temperature ** 2);
      const slope = tf.mul(soft.gradient, (1 - labels) * temperature);
      if (labels === 0) return { loss: divergence, gradient: slope };
      const hard = tf.logSoftmax(logits);
      const wanted = scored.labels.slice(at, end);
      const picked = tf.gather(hard, tf.tensor2d(wanted, [end - at, 1], 'int32'), 1, 1);
      const toward = tf.sub(tf.exp(hard), tf.oneHot(tf.tensor1d(wanted, 'int32'), logits.shape[1]!));
      return {
        loss: tf.sub(divergence, tf.mul(tf.reshape(picked, [end - at]), labels)),
        gradient: tf.add(slope, tf.mul(toward, labels)),
      };
    };
  });

export interface Teacher {
  readonly model: EngineModel;
  readonly adapter?: EngineAdapter;
  /** [vocabSize] */
  readonly tokenBias?: Tensor;
}

/** The teacher's k likeliest tokens of each scored row with their probabilities at a temperature. */
export function teacherTopK(
  teacher: Teacher,
  batch: TokenBatch,
  scored: Pick<ScoredRows, 'rows'>,
  k: number,
  temperature: number,
): SoftTargets {
  const hidden = forwardTokens(teacher.model, batch, { adapter: teacher.adapter });
  const targets = teacherTargets(teacher.model, hidden, scored, k, { tokenBias: teacher.tokenBias, temperature });
  hidden.dispose();
  return targets;
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
      const plain = headLogits(teacher.model, hidden, scored.rows.slice(at, end));
      const logT = tf.logSoftmax(teacher.tokenBias === undefined ? plain : tf.add(plain, teacher.tokenBias));
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
