import type { Tensor } from '../../tensor/backend.ts';
import { tensorflow } from '../../tensor/backend.ts';
import { matMul, sparseSoftmaxCrossEntropy } from '../../tensor/native.ts';
import type { ScoredRows } from './batch.ts';
import type { EngineModel } from './model.ts';
import type { GradientSink } from './ops.ts';
import { rmsNorm, rmsNormBackward } from './ops.ts';

export const headName = (model: EngineModel): string =>
  model.config.tied ? 'model.embed_tokens.weight' : 'lm_head.weight';

/** Rows a pass through the vocabulary: 128 of a 49,152-word head (logits of 25 MB; 64 and 256 rows cost more a row), more of a small one. */
export function chunkRows(vocabSize: number): number {
  return Math.max(128, Math.floor(6_400_000 / vocabSize));
}

/**
 * Logits [rows, vocabSize]. The product is made as W h^T and transposed: h W^T with a wide W runs at 17 to 26 GFLOPS a core
 * from 128 rows on (its kernel packs the whole of W once a thread), W h^T at 76 to 86, and the transpose adds a sixth.
 */
export function vocabularyLogits(weight: Tensor, h: Tensor): Tensor {
  return tensorflow().transpose(matMul(weight, h, false, true));
}

/**
 * Cross-entropy of the scored rows under the model's final norm and vocabulary head, a chunk of rows at a time.
 * @param hidden [batch * length, hidden], the last block's output.
 * @param options.tokenBias [vocabSize], added to every row's logits.
 * @param options.sink When given, the weighted loss's gradients of the head's parameters go there and the gradient with
 *   respect to `hidden` is returned (the caller disposes it); `trainHead` says whether the vocabulary matrix is wanted.
 * @returns nats a row, unweighted.
 */
export function headLoss(
  model: EngineModel,
  hidden: Tensor,
  scored: ScoredRows,
  options: { tokenBias?: Tensor; sink?: GradientSink; trainHead?: boolean } = {},
): { losses: Float32Array; dHidden: Tensor | undefined } {
  const tf = tensorflow();
  const { sink, tokenBias, trainHead = false } = options;
  const losses = new Float32Array(scored.rows.length);
  const weight = model.parameter(headName(model));
  const scale = model.parameter('model.norm.weight');
  const crossEntropy = (h: Tensor, at: number, end: number) => {
    const logits = vocabularyLogits(weight, h);
    return sparseSoftmaxCrossEntropy(
      tokenBias === undefined ? logits : tf.add(logits, tokenBias),
      tf.tensor1d(scored.labels.slice(at, end), 'int32'),
    );
  };
  const dHidden = tf.tidy(() => {
    const norm = rmsNorm(hidden, scale, model.config.rmsEps);
    const pieces: Tensor[] = [];
    let at = 0;
    for (const end of chunkEnds(model.config.vocabSize, scored.rows.length, trainHead ? sink : undefined)) {
      const start = at;
      const piece = tf.tidy(() => {
        const h = tf.gather(norm.y, tf.tensor1d(scored.rows.slice(start, end), 'int32'));
        const { loss, gradient } = crossEntropy(h, start, end);
        losses.set(loss.dataSync(), start);
        if (sink === undefined) return undefined;
        // A row's weight goes on the narrow side of each product: scaling the gradient itself is one more pass over 25 MB.
        const weights = tf.tensor2d(scored.weights.slice(start, end), [end - start, 1]);
        const again = (input: Tensor) => crossEntropy(input, start, end).gradient;
        if (trainHead && sink.head !== undefined)
          sink.head(headName(model), { at: start, h, weights, gradient, again });
        else if (trainHead) sink.weight(headName(model), () => tf.mul(h, weights), gradient);
        return tf.mul(matMul(gradient, weight), weights);
      });
      if (piece !== undefined) pieces.push(piece);
      at = end;
    }
    if (sink === undefined) return undefined;
    const dNormed = spread(pieces, scored.rows, hidden.shape as [number, number]);
    sink.scale('model.norm.weight', dNormed, norm.unit);
    return rmsNormBackward(dNormed, scale, norm);
  });
  return { losses, dHidden };
}

/** Ends of the chunks that pass the vocabulary one after the other; a sink that works by unit has them end where units do. */
function chunkEnds(vocabSize: number, rows: number, sink: GradientSink | undefined): readonly number[] {
  const most = chunkRows(vocabSize);
  if (sink?.headEnds !== undefined) return sink.headEnds(most);
  return Array.from({ length: Math.ceil(rows / most) }, (_, i) => Math.min((i + 1) * most, rows));
}

/** A loss on the last block's output, as `headLoss`. */
export type HeadPass = typeof headLoss;

/** Scored rows back to their places among all rows; the others are zero. */
export function spread(pieces: Tensor[], rows: Int32Array, [total, width]: [number, number]): Tensor {
  const tf = tensorflow();
  const place = new Int32Array(total).fill(rows.length);
  rows.forEach((row, i) => {
    place[row] = i;
  });
  const all = tf.concat([...pieces, tf.zeros([1, width])], 0);
  return tf.gather(all, tf.tensor1d(place, 'int32'));
}

/** The model's logits [rows, vocabSize] for the given rows of the last block's output. For small cases: the caller bounds the rows. */
export function headLogits(model: EngineModel, hidden: Tensor, rows: Int32Array): Tensor {
  const tf = tensorflow();
  return tf.tidy(() => {
    const picked = tf.gather(hidden, tf.tensor1d(rows, 'int32'));
    const norm = rmsNorm(picked, model.parameter('model.norm.weight'), model.config.rmsEps);
    return vocabularyLogits(model.parameter(headName(model)), norm.y);
  });
}

/**
 * Summed next-token probabilities of the scored rows by unit: [units, vocabSize]. What the vocabulary bias compares the
 * observed counts with. `tokenBias` [vocabSize] is added to the logits.
 */
export function summedPredictions(
  model: EngineModel,
  hidden: Tensor,
  scored: ScoredRows,
  unitOfRow: Int32Array,
  units: number,
  tokenBias?: Tensor,
): Float32Array {
  const tf = tensorflow();
  const { vocabSize } = model.config;
  const chunk = chunkRows(vocabSize);
  const total = tf.tidy(() => {
    let sum: Tensor = tf.zeros([units, vocabSize]);
    for (let at = 0; at < scored.rows.length; at += chunk) {
      const end = Math.min(at + chunk, scored.rows.length);
      const next = tf.tidy(() => {
        const logits = headLogits(model, hidden, scored.rows.slice(at, end));
        const p = tf.softmax(tokenBias === undefined ? logits : tf.add(logits, tokenBias));
        const select = new Float32Array(units * (end - at));
        for (let row = at; row < end; row++) select[unitOfRow[row]! * (end - at) + row - at] = 1;
        return tf.add(sum, matMul(tf.tensor2d(select, [units, end - at]), p));
      });
      sum.dispose();
      sum = next;
    }
    return sum;
  });
  const data = Float32Array.from(total.dataSync());
  total.dispose();
  return data;
}
