import { LearndError } from '../../../base/errors.ts';
import type { ModelConfig } from '../types.ts';

/** Sequences right-padded to one length. `ids` is row-major [batch, length]; padding is token 0 and carries no loss. */
export interface TokenBatch {
  readonly batch: number;
  readonly length: number;
  readonly ids: Int32Array;
  /** True length of each sequence. */
  readonly lengths: readonly number[];
  /** Who may look at whom where that is not simply the past: [batch, 1, length, length], 0 or -1e9, added to the scores. */
  readonly mask?: Float32Array;
}

/** How a sequence attends when it is more than one text read forwards. */
export interface Attention {
  /** Which document each token belongs to: none sees another's (packing). RoPE is relative, so positions restart with each. */
  readonly segments?: readonly number[];
  /** Every token sees the whole of its document, what follows included (masked language modelling). */
  readonly bidirectional?: boolean;
}

/** @throws LearndError('invalid') on an id outside the vocabulary: the tokenizer and the model do not belong together. */
export function padBatch(sequences: readonly (readonly number[])[], config: ModelConfig): TokenBatch {
  const batch = sequences.length;
  const length = sequences.reduce((longest, s) => Math.max(longest, s.length), 1);
  const ids = new Int32Array(batch * length);
  sequences.forEach((sequence, b) => {
    sequence.forEach((id, t) => {
      if (!Number.isInteger(id) || id < 0 || id >= config.vocabSize)
        throw new LearndError('invalid', `token id ${id} is outside the model's vocabulary of ${config.vocabSize}`, {
          field: 'tokens',
          hint: "Use the tokenizer that belongs to this model's weights.",
        });
      ids[b * length + t] = id;
    });
  });
  return { batch, length, ids, lengths: sequences.map(s => s.length) };
}

/** A batch whose sequences may hold several documents, or be read both ways; the same as `padBatch` where none does. */
export function attentionBatch(
  sequences: readonly (Attention & { readonly tokens: readonly number[] })[],
  config: ModelConfig,
): TokenBatch {
  const batch = padBatch(
    sequences.map(s => s.tokens),
    config,
  );
  if (sequences.every(s => s.segments === undefined && s.bidirectional !== true)) return batch;
  const { length } = batch;
  const mask = new Float32Array(batch.batch * length * length).fill(HIDDEN);
  sequences.forEach(({ tokens, segments, bidirectional }, b) => {
    for (let t = 0; t < length; t++) {
      const row = (b * length + t) * length;
      // Padding looks at itself alone: its row must have something to look at, and nothing looks at it.
      if (t >= tokens.length) {
        mask[row + t] = 0;
        continue;
      }
      const end = bidirectional === true ? tokens.length : t + 1;
      for (let s = 0; s < end; s++) if (segments === undefined || segments[s] === segments[t]) mask[row + s] = 0;
    }
  });
  return { ...batch, mask };
}

const HIDDEN = -1e9;

/** Positions whose next token is scored, and with what weight it enters the loss. Parallel arrays. */
export interface ScoredRows {
  /** Row in [batch * length] whose output predicts the label. */
  readonly rows: Int32Array;
  readonly labels: Int32Array;
  readonly weights: Float32Array;
  /** Which sequence of the batch the row belongs to. */
  readonly sequence: Int32Array;
}

/**
 * Every token but each sequence's first is scored; with `masks`, only tokens whose mask is true.
 * With `targets` those are what is predicted, and where (`Example.targets`).
 * `weight(b, count)` is the weight of one token of sequence b, which has `count` scored tokens.
 */
export function scoredRows(
  batch: TokenBatch,
  weight: (b: number, count: number) => number,
  masks?: readonly (readonly boolean[] | undefined)[],
  targets?: readonly (readonly number[] | undefined)[],
): ScoredRows {
  const rows: number[] = [];
  const labels: number[] = [];
  const weights: number[] = [];
  const sequence: number[] = [];
  batch.lengths.forEach((length, b) => {
    const mask = masks?.[b];
    const first = rows.length;
    const own = targets?.[b];
    const score = (t: number, label: number): void => {
      rows.push(b * batch.length + t);
      labels.push(label);
      sequence.push(b);
    };
    if (own !== undefined) {
      for (let t = 0; t < length; t++) if (own[t]! >= 0) score(t, own[t]!);
    } else
      for (let t = 0; t + 1 < length; t++)
        if (mask === undefined || mask[t + 1] === true) score(t, batch.ids[b * batch.length + t + 1]!);
    const count = rows.length - first;
    const each = count === 0 ? 0 : weight(b, count);
    for (let i = 0; i < count; i++) weights.push(each);
  });
  return {
    rows: Int32Array.from(rows),
    labels: Int32Array.from(labels),
    weights: Float32Array.from(weights),
    sequence: Int32Array.from(sequence),
  };
}

/**
 * Groups items so that `items * longest` stays within `maxTokens`, longest first, so that a group's lengths are alike.
 * An item longer than the limit is a group of its own. Returns index lists.
 */
export function groupByLength(lengths: readonly number[], maxTokens: number): number[][] {
  const order = lengths.map((_, i) => i).sort((a, b) => lengths[b]! - lengths[a]! || a - b);
  const groups: number[][] = [];
  let current: number[] = [];
  for (const i of order) {
    const longest = lengths[current[0] ?? i]!;
    if (current.length > 0 && longest * (current.length + 1) > maxTokens) {
      groups.push(current);
      current = [];
    }
    current.push(i);
  }
  if (current.length > 0) groups.push(current);
  return groups;
}
