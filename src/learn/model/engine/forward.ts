import { invalid } from '../../../base/errors.ts';
import type { Tensor } from '../../tensor/backend.ts';
import { tensorflow } from '../../tensor/backend.ts';
import type { TokenBatch } from './batch.ts';
import { type BlockShape, blockForward } from './block.ts';
import type { EngineAdapter, EngineModel } from './model.ts';

/** Token embeddings [batch * length, hidden]. The caller disposes it. */
export function embed(model: EngineModel, batch: TokenBatch): Tensor {
  const tf = tensorflow();
  return tf.tidy(() => tf.gather(model.parameter('model.embed_tokens.weight'), tf.tensor1d(batch.ids, 'int32')));
}

/**
 * Runs blocks `from` .. `to` - 1 without keeping anything for a backward pass.
 * @param x [batch * length, hidden], not disposed. @returns the last block's output; the caller disposes it.
 * @param watch Called inside a tidy with each block's input, output and inner feed-forward activations.
 */
export function runBlocks(
  model: EngineModel,
  x: Tensor,
  shape: BlockShape,
  options: {
    from?: number;
    to?: number;
    adapter?: EngineAdapter;
    watch?: (layer: number, seen: { x: Tensor; y: Tensor; inner: Tensor }) => void;
  } = {},
): Tensor {
  const tf = tensorflow();
  const { from = 0, to = model.config.layers, adapter, watch } = options;
  if (from < 0 || to > model.config.layers || from > to)
    throw invalid('layer', `blocks ${from} to ${to} are not within the model's ${model.config.layers}`);
  let current = tf.clone(x);
  for (let layer = from; layer < to; layer++) {
    const next = tf.tidy(() => {
      const { y, inner } = blockForward(model, adapter, layer, current, shape);
      watch?.(layer, { x: current, y, inner });
      return y;
    });
    current.dispose();
    current = next;
  }
  return current;
}

/** The last block's output for a batch of tokens. The caller disposes it. */
export function forwardTokens(
  model: EngineModel,
  batch: TokenBatch,
  options: { to?: number; adapter?: EngineAdapter } = {},
): Tensor {
  const embedded = embed(model, batch);
  const hidden = runBlocks(model, embedded, batch, options);
  embedded.dispose();
  return hidden;
}
