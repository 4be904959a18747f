import { attentionBatch } from '../model/engine/batch.ts';
import { forwardTokens } from '../model/engine/forward.ts';
import { headLogits } from '../model/engine/head.ts';
import type { EngineAdapter, EngineModel } from '../model/engine/model.ts';
import type { SecureStream } from '../privacy/index.ts';
import { type Tensor, tensorflow } from '../tensor/backend.ts';

export interface SampleOptions {
  /** Longest continuation, tokens. */
  readonly tokens: number;
  /** Ends a sequence, and is part of it. */
  readonly end: number | undefined;
  readonly adapter?: EngineAdapter | undefined;
  readonly tokenBias?: Tensor | undefined;
}

/**
 * Continuations drawn from the model at temperature 1. The whole sequence is run again for each token: right for short continuations
 * in training; serving has llama.cpp.
 */
export function sampleContinuations(
  model: EngineModel,
  prompts: readonly (readonly number[])[],
  options: SampleOptions,
  stream: SecureStream,
): number[][] {
  const tf = tensorflow();
  const sequences = prompts.map(prompt => [...prompt]);
  const open = new Set(sequences.keys());
  for (let n = 0; n < options.tokens && open.size > 0; n++) {
    const members = [...open].filter(i => sequences[i]!.length < model.config.contextLength);
    if (members.length === 0) break;
    const batch = attentionBatch(
      members.map(i => ({ tokens: sequences[i]! })),
      model.config,
    );
    const hidden = forwardTokens(model, batch, { adapter: options.adapter });
    const rows = Int32Array.from(batch.lengths, (length, b) => b * batch.length + length - 1);
    const probabilities = tf.tidy(() => {
      const logits = headLogits(model, hidden, rows);
      const biased = options.tokenBias === undefined ? logits : tf.add(logits, options.tokenBias);
      return tf.softmax(biased).dataSync() as Float32Array;
    });
    hidden.dispose();
    const { vocabSize } = model.config;
    members.forEach((i, row) => {
      const token = draw(probabilities.subarray(row * vocabSize, (row + 1) * vocabSize), stream.uniform());
      sequences[i]!.push(token);
      if (token === options.end) open.delete(i);
    });
  }
  return sequences;
}

function draw(probabilities: Float32Array, at: number): number {
  let left = at;
  let last = 0;
  for (const [token, p] of probabilities.entries()) {
    if (p > 0) last = token;
    left -= p;
    if (left < 0) return token;
  }
  return last;
}
