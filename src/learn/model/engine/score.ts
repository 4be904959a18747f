import { invalid } from '../../../base/errors.ts';
import type { Tensor } from '../../tensor/backend.ts';
import { tensorflow } from '../../tensor/backend.ts';
import { groupByLength, padBatch, scoredRows } from './batch.ts';
import { forwardTokens } from './forward.ts';
import { headLoss } from './head.ts';
import type { EngineAdapter, EngineModel } from './model.ts';
import { rmsNorm } from './ops.ts';

export interface SequenceScore {
  /** Summed negative log-likelihood of the scored tokens, nats. */
  readonly nll: number;
  /** Tokens scored: all but the first. */
  readonly tokens: number;
  /** Nats of the first scored token alone (how the sequence starts), undefined when nothing is scored. */
  readonly firstTokenNll: number | undefined;
}

export interface ScoreOptions {
  /** Padded tokens a batch; bounds memory. Default 1024. */
  readonly maxTokensPerBatch?: number;
  readonly adapter?: EngineAdapter;
  /** [vocabSize], added to the logits. */
  readonly tokenBias?: Float32Array;
  /** Longest piece scored in one go; default the context length, at most 2048 (attention memory grows with its square). */
  readonly window?: number;
  /** Called between batches; throw to stop. */
  readonly onBatch?: (done: number, total: number) => void;
}

/**
 * Negative log-likelihood of token sequences, float32 throughout. A sequence longer than the window is cut into windows
 * that share one token, so that every token but the first is scored exactly once (with less context after a cut).
 */
export function scoreTokens(
  model: EngineModel,
  sequences: readonly (readonly number[])[],
  options: ScoreOptions = {},
): SequenceScore[] {
  const tf = tensorflow();
  const window = options.window ?? Math.min(model.config.contextLength, 2048);
  if (!Number.isInteger(window) || window < 2)
    throw invalid('window', `the window must be at least 2 tokens, not ${window}`);
  const pieces: { sequence: number; first: boolean; tokens: readonly number[] }[] = [];
  sequences.forEach((tokens, sequence) => {
    for (let at = 0; at + 1 < tokens.length; at += window - 1)
      pieces.push({ sequence, first: at === 0, tokens: tokens.slice(at, at + window) });
  });
  const nll = new Float64Array(sequences.length);
  const counts = new Int32Array(sequences.length);
  const firsts: (number | undefined)[] = new Array(sequences.length).fill(undefined);
  const bias = biasTensor(model, options.tokenBias);
  let done = 0;
  try {
    for (const group of groupByLength(
      pieces.map(p => p.tokens.length),
      options.maxTokensPerBatch ?? 1024,
    )) {
      const members = group.map(i => pieces[i]!);
      const batch = padBatch(
        members.map(m => m.tokens),
        model.config,
      );
      const scored = scoredRows(batch, () => 1);
      const hidden = forwardTokens(model, batch, { adapter: options.adapter });
      const { losses } = headLoss(model, hidden, scored, { tokenBias: bias });
      hidden.dispose();
      scored.sequence.forEach((b, i) => {
        const { sequence, first } = members[b]!;
        nll[sequence]! += losses[i]!;
        counts[sequence]! += 1;
        if (first && scored.rows[i] === b * batch.length) firsts[sequence] = losses[i]!;
      });
      done += group.length;
      options.onBatch?.(done, pieces.length);
    }
  } finally {
    bias?.dispose();
  }
  return sequences.map((_, i) => ({ nll: nll[i]!, tokens: counts[i]!, firstTokenNll: firsts[i] }));

  function biasTensor(m: EngineModel, values: Float32Array | undefined): Tensor | undefined {
    if (values === undefined) return undefined;
    if (values.length !== m.config.vocabSize)
      throw invalid('tokenBias', `the token bias has ${values.length} entries, the vocabulary ${m.config.vocabSize}`);
    return tf.tensor1d(values);
  }
}

/**
 * Features for a classifier: the mean over tokens of the RMS-normalised hidden state after the first `layer` blocks (no
 * scale), one vector [hidden] a sequence; an empty sequence gives zeros. What llama.cpp gives for the truncated model.
 */
export function hiddenStates(
  model: EngineModel,
  sequences: readonly (readonly number[])[],
  layer: number,
  options: { maxTokensPerBatch?: number } = {},
): Float32Array[] {
  const tf = tensorflow();
  const { hidden: width, rmsEps } = model.config;
  const features = sequences.map(() => new Float32Array(width));
  const filled = sequences.map((_, i) => i).filter(i => sequences[i]!.length > 0);
  const ones = tf.ones([width]);
  for (const group of groupByLength(
    filled.map(i => sequences[i]!.length),
    options.maxTokensPerBatch ?? 1024,
  )) {
    const members = group.map(g => filled[g]!);
    const batch = padBatch(
      members.map(i => sequences[i]!),
      model.config,
    );
    const hidden = forwardTokens(model, batch, { to: layer });
    const pooled = tf.tidy(() => {
      const unit = tf.reshape(rmsNorm(hidden, ones, rmsEps).unit, [batch.batch, batch.length, width]);
      const weights = new Float32Array(batch.batch * batch.length);
      batch.lengths.forEach((length, b) => {
        weights.fill(1 / length, b * batch.length, b * batch.length + length);
      });
      return tf.sum(tf.mul(unit, tf.tensor3d(weights, [batch.batch, batch.length, 1])), 1);
    });
    const data = pooled.dataSync();
    members.forEach((i, b) => {
      features[i]!.set(data.subarray(b * width, (b + 1) * width));
    });
    hidden.dispose();
    pooled.dispose();
  }
  ones.dispose();
  return features;
}
