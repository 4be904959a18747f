import type { Tensor } from '../../tensor/backend.ts';
import { tensorflow } from '../../tensor/backend.ts';
import type { ScoredRows, TokenBatch } from './batch.ts';
import type { Saved } from './block.ts';
import { blockBackward, blockForward } from './block.ts';
import { embed, runBlocks } from './forward.ts';
import { type HeadPass, headLoss, headName } from './head.ts';
import type { EngineAdapter, EngineModel } from './model.ts';
import type { GradientSink } from './ops.ts';

const ACTIVATION_BYTES = 1.5 * 2 ** 30;

export interface BackwardOptions {
  readonly adapter?: EngineAdapter;
  /** Lowest block that has something to train; blocks below run forward only. Default 0. */
  readonly from?: number;
  /** Output of block `from` - 1 [batch * length, hidden], when it is known already. Not disposed. */
  readonly input?: Tensor;
  /** The vocabulary matrices' gradients are wanted (embedding and head, or the one matrix that is both). */
  readonly vocabulary?: boolean;
  /** [vocabSize], added to the logits and not trained. Not disposed. */
  readonly tokenBias?: Tensor;
  /**
   * What the blocks may keep between the passes, default 1.5 GiB. Blocks that do not fit keep their input alone and run forward
   * again in the backward pass, a quarter more work for them.
   */
  readonly activationBytes?: number;
  /** Another loss on the last block's output (`softHead`); default: cross-entropy of the labels. */
  readonly head?: HeadPass;
}

/**
 * One forward and one backward pass of the weighted next-token loss: sum over scored rows of weight * cross-entropy.
 * Gradients go to `sink`. Memory: about 5 hidden and 2 feed-forward widths a token and block, 4 bytes each, up to
 * `activationBytes`.
 * @returns nats a scored row, unweighted.
 */
export function lossBackward(
  model: EngineModel,
  batch: TokenBatch,
  scored: ScoredRows,
  sink: GradientSink,
  options: BackwardOptions = {},
): Float32Array {
  const tf = tensorflow();
  const { adapter, from = 0, vocabulary = false } = options;
  let x = options.input === undefined ? lowerBlocks(model, batch, from, adapter) : tf.clone(options.input);
  const forward = (layer: number, input: Tensor) =>
    tf.tidy(() => {
      const { y, saved } = blockForward(model, adapter, layer, input, batch);
      return { y, saved };
    });
  let room = options.activationBytes ?? ACTIVATION_BYTES;
  /** What each block keeps, or its input. */
  const kept: (Saved | { input: Tensor })[] = [];
  for (let layer = from; layer < model.config.layers; layer++) {
    const { y, saved } = forward(layer, x);
    const bytes = Object.values(saved).reduce((sum, tensor) => sum + 4 * tensor.size, 0);
    if (bytes <= room) {
      room -= bytes;
      x.dispose();
      kept.push(saved);
    } else {
      for (const tensor of Object.values(saved)) tensor.dispose();
      kept.push({ input: x });
    }
    x = y;
  }
  const head = options.head ?? headLoss;
  const { losses, dHidden } = head(model, x, scored, { sink, trainHead: vocabulary, tokenBias: options.tokenBias });
  x.dispose();
  let d = dHidden!;
  for (let layer = model.config.layers - 1; layer >= from; layer--) {
    const own = kept.pop()!;
    let saved: Saved;
    if ('input' in own) {
      const again = forward(layer, own.input);
      again.y.dispose();
      own.input.dispose();
      saved = again.saved;
    } else saved = own;
    const next = tf.tidy(() => blockBackward(model, adapter, layer, d, saved, batch, sink));
    d.dispose();
    for (const tensor of Object.values(saved)) tensor.dispose();
    d = next;
  }
  if (vocabulary) tf.tidy(() => embeddingGradient(model, batch, d, sink));
  d.dispose();
  return losses;
}

/** The hidden state that enters block `from`. The caller disposes it. */
export function lowerBlocks(model: EngineModel, batch: TokenBatch, from: number, adapter?: EngineAdapter): Tensor {
  const embedded = embed(model, batch);
  const hidden = runBlocks(model, embedded, batch, { to: from, adapter });
  embedded.dispose();
  return hidden;
}

/** The embedding's gradient is a scatter-add of `d` into the rows of the tokens read; a tied matrix adds it to the head's. */
function embeddingGradient(model: EngineModel, batch: TokenBatch, d: Tensor, sink: GradientSink): void {
  const tf = tensorflow();
  if (sink.embedding !== undefined) {
    sink.embedding('model.embed_tokens.weight', d);
    return;
  }
  const { vocabSize } = model.config;
  const summed = tf.unsortedSegmentSum(d, tf.tensor1d(batch.ids, 'int32'), vocabSize);
  sink.weightGradient('model.embed_tokens.weight', summed);
}

/** Keys of the vocabulary matrices that `vocabulary` trains. */
export const vocabularyKeys = (model: EngineModel): string[] => [
  ...new Set(['model.embed_tokens.weight', headName(model)]),
];
