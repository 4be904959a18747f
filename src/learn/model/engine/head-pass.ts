import type { Tensor } from '../../tensor/backend.ts';
import { tensorflow } from '../../tensor/backend.ts';
import { matMul } from '../../tensor/native.ts';
import type { ScoredRows } from './batch.ts';
import { chunkRows, type HeadPass, headName, spread, vocabularyLogits } from './head.ts';
import { type GradientSink, rmsNorm, rmsNormBackward } from './ops.ts';

/** Losses [rows] of some rows, and their gradient with respect to the rows' logits [rows, vocabSize]. Inside the caller's tidy. */
export type RowLoss = (logits: Tensor, at: number, end: number) => { loss: Tensor; gradient: Tensor };

/** A head pass from a loss by rows, a chunk of them at a time: the gradients of head, final norm and hidden state around it. */
export const headPass =
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
