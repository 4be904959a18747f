import type { Tensor } from '../../tensor/backend.ts';
import { tensorflow } from '../../tensor/backend.ts';
import { lessOneAt, matMul, sparseSoftmaxCrossEntropy } from '../../tensor/native.ts';
import type { ScoredRows } from './batch.ts';
import type { EngineModel } from './model.ts';
import type { GradientSink } from './ops.ts';
import { rmsNorm, rmsNormBackward } from './ops.ts';

export const headName = (model: EngineModel): string =>
  model.config.tied ? 'model.embed_tokens.weight' : 'lm_head.weight';

/**
 * Rows a pass through the vocabulary, of a matrix 576 wide with two threads: a large vocabulary's matrix is packed anew for each pass, so
 * of 49,152 words 512 rows (logits of 101 MB; products at 139 and 143 GFLOPS, with 130 rows 111 and 126); of a small one what the
 * processor's cache holds of logits, 781 of 8,192 words (all 1,016 at once took a tenth longer); of a very large one 102 MB.
 */
export function chunkRows(vocabSize: number): number {
  const cached = Math.floor(6_400_000 / vocabSize);
  return Math.max(128, Math.min(Math.floor(25_600_000 / vocabSize), Math.max(512, cached)));
}

/** Logits [rows, vocabSize]. */
export function vocabularyLogits(weight: Tensor, h: Tensor): Tensor {
  return matMul(h, weight, false, true);
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
  const logitsOf = (h: Tensor) => {
    const logits = vocabularyLogits(weight, h);
    return tokenBias === undefined ? logits : tf.add(logits, tokenBias);
  };
  const trainWeight = (p: Tensor, h: Tensor, weights: Tensor, at: number, end: number) => {
    const labels = scored.labels.slice(at, end);
    const gradient = lessOneAt(p, labels);
    const again = (input: Tensor) => lessOneAt(tf.softmax(logitsOf(input)), labels);
    if (sink!.head !== undefined) sink!.head(headName(model), { at, h, weights, gradient, again });
    else sink!.weight(headName(model), () => tf.mul(h, weights), gradient);
  };
  const dHidden = tf.tidy(() => {
    const norm = rmsNorm(hidden, scale, model.config.rmsEps);
    const pieces: Tensor[] = [];
    let at = 0;
    for (const end of chunkEnds(model.config.vocabSize, scored.rows.length, trainHead ? sink : undefined)) {
      const start = at;
      const labels = scored.labels.slice(start, end);
      const piece = tf.tidy(() => {
        const ids = tf.tensor1d(labels, 'int32');
        const h = tf.gather(norm.y, tf.tensor1d(scored.rows.slice(start, end), 'int32'));
        if (sink === undefined) {
          losses.set(sparseSoftmaxCrossEntropy(logitsOf(h), ids).loss.dataSync(), start);
          return undefined;
        }
        // The fused cross-entropy takes three times a softmax. The 1 at the label is taken off where it is cheap.
        const p = tf.softmax(logitsOf(h));
        const ofLabels = tf.gather(p, tf.reshape(ids, [end - start, 1]), 1, 1).dataSync();
        losses.set(Float32Array.from(ofLabels, nats), start);
        // A row's weight goes on the narrow side of each product: scaling the gradient itself is one more pass over 25 MB.
        const weights = tf.tensor2d(scored.weights.slice(start, end), [end - start, 1]);
        if (trainHead) trainWeight(p, h, weights, start, end);
        return tf.mul(tf.sub(matMul(p, weight), tf.gather(weight, ids)), weights);
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

/** -log p. A probability that float32 rounds to zero counts as its smallest number; what is not a number stays so. */
const nats = (p: number): number => -Math.log(p === 0 ? 2 ** -149 : p);

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
