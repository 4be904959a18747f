/** What a model is pre-trained on: documents packed into sequences, read forwards, with gaps to fill, or both. */
import { invalid } from '../../base/errors.ts';
import type { Example } from '../model/engine/units.ts';
import type { SecureStream } from '../privacy/index.ts';

/** The end-of-text token put before and after each document; documents without any follow each other bare. */
export interface Packing {
  readonly sequenceLength: number;
  readonly separator: number | undefined;
}

/** A full sequence of one or several documents; the last may be short. */
export interface Packed {
  readonly tokens: readonly number[];
  /** Number of the document that each token belongs to. */
  readonly segments: readonly number[];
}

/**
 * Documents end to end in sequences of `sequenceLength` tokens: nothing is padded but the last. A document that is cut goes on in
 * the next sequence from its last token, so that every token of it but the first is predicted once; what belongs to another
 * document is kept apart by the segments. Documents of fewer than two tokens are left out.
 */
export function packDocuments(
  documents: readonly (readonly number[])[],
  { sequenceLength, separator }: Packing,
): Packed[] {
  if (!Number.isInteger(sequenceLength) || sequenceLength < 2)
    throw invalid('sequence', `the sequence length must be a whole number of at least 2, not ${sequenceLength}`);
  const packed: Packed[] = [];
  let tokens: number[] = [];
  let segments: number[] = [];
  const close = (): void => {
    // A sequence in which nothing follows anything has nothing to learn from.
    if (segments.some((segment, t) => t > 0 && segment === segments[t - 1])) packed.push({ tokens, segments });
    tokens = [];
    segments = [];
  };
  documents.forEach((document, number) => {
    if (document.length === 0) return;
    const whole = separator === undefined ? document : [separator, ...document, separator];
    if (whole.length < 2) return;
    let at = 0;
    while (at < whole.length) {
      const room = sequenceLength - tokens.length;
      const part = whole.slice(at, at + room);
      // A token alone at the end of a sequence predicts nothing there and is repeated in the next.
      if (part.length > 1 || tokens.length === 0) {
        for (const token of part) {
          tokens.push(token);
          segments.push(number);
        }
        at += part.length;
        if (at < whole.length) at -= 1;
        else if (tokens.length < sequenceLength) break;
      }
      close();
    }
  });
  close();
  return packed;
}

/** Next-word prediction within each document. */
export function causalExample({ tokens, segments }: Packed): Example {
  const targets = tokens.map((_, t) => (segments[t + 1] === segments[t] ? tokens[t + 1]! : -1));
  return segments.every(segment => segment === segments[0]) ? { tokens } : { tokens, segments, targets };
}

/** Share of the tokens to be found again, and what stands in their places (BERT, 1810.04805). */
export const MASKING = { share: 0.15, masked: 0.8, random: 0.1 } as const;

export interface Masking {
  readonly maskId: number;
  /** Random words are drawn from the ids below. */
  readonly vocabSize: number;
  /** Never asked for, and never put in: separators and the mask itself. */
  readonly special: ReadonlySet<number>;
  /** The model sees both sides of a gap. Without it, what comes before alone. */
  readonly bidirectional: boolean;
  /**
   * A gap is filled by the output before it, as next-word prediction does it (masked next-token prediction, GPT-BERT, 2410.24159), so
   * that one head serves both; without it, by the output at its place (BERT).
   */
  readonly shifted: boolean;
}

/**
 * A sequence with gaps: each ordinary token is chosen with probability 15%; of those 80% become the mask token, 10% another token, 10%
 * stay. Only the chosen ones are predicted. A shifted gap needs a token of its document before it.
 */
export function maskedExample({ tokens, segments }: Packed, masking: Masking, stream: SecureStream): Example {
  const { maskId, vocabSize, special, bidirectional, shifted } = masking;
  const seen = [...tokens];
  const targets = new Array<number>(tokens.length).fill(-1);
  tokens.forEach((token, t) => {
    if (special.has(token) || (shifted && segments[t - 1] !== segments[t])) return;
    if (stream.uniform() >= MASKING.share) return;
    targets[shifted ? t - 1 : t] = token;
    const draw = stream.uniform();
    if (draw < MASKING.masked) seen[t] = maskId;
    else if (draw < MASKING.masked + MASKING.random) seen[t] = ordinary(vocabSize, special, stream);
  });
  return { tokens: seen, targets, segments, ...(bidirectional && { bidirectional }) };
}

function ordinary(vocabSize: number, special: ReadonlySet<number>, stream: SecureStream): number {
  for (;;) {
    const token = stream.below(vocabSize);
    if (!special.has(token)) return token;
  }
}

/** What is learned: the next word; gaps, both sides seen; or both kinds of sequences through one head. */
export type PretrainObjective =
  | { readonly kind: 'causal' }
  | { readonly kind: 'masked'; readonly maskId: number }
  | {
      readonly kind: 'mixed';
      readonly maskId: number;
      /** Share of sequences with gaps. */
      readonly share: number;
      /** Whether those see both sides of a gap. Default false: the attention that the model is served with. */
      readonly bidirectional?: boolean;
    };

/** Of an objective that has gaps: what remains to be said when the vocabulary is known. */
export type Gaps =
  | { readonly kind: 'masked' }
  | { readonly kind: 'mixed'; readonly share: number; readonly bidirectional: boolean };

/**
 * Privacy units whose examples have gaps. The number of a unit's examples is multiplied by at most `passes`, in which each sequence meets
 * other gaps: under privacy say 1, since what a unit contributes is clipped as one.
 */
export function unitsWithGaps(
  units: readonly (readonly Example[])[],
  gaps: Gaps & { readonly maskId: number },
  vocabulary: { readonly vocabSize: number; readonly special: ReadonlySet<number> },
  passes: number,
  stream: SecureStream,
): Example[][] {
  return units.map(examples =>
    pretrainExamples(
      examples.map(({ tokens }) => ({ tokens, segments: tokens.map(() => 0) })),
      gaps,
      vocabulary,
      passes,
      stream,
    ).filter(({ targets }) => targets === undefined || targets.some(target => target >= 0)),
  );
}

/** Gaps differ between copies of a sequence, so that a pass over the text is not asked the same again. */
const MOST_COPIES = 10;
const MOST_TOKENS = 20e6;

/** The examples of about `passes` passes. Each sequence is once in each copy, with gaps in its share of them. */
export function pretrainExamples(
  packed: readonly Packed[],
  objective: PretrainObjective,
  vocabulary: { readonly vocabSize: number; readonly special: ReadonlySet<number> },
  passes: number,
  stream: SecureStream,
): Example[] {
  if (objective.kind === 'causal') return packed.map(causalExample);
  const share = objective.kind === 'mixed' ? objective.share : 1;
  if (!(share > 0 && share <= 1)) throw invalid('masked_share', `must lie above 0 and up to 1, not ${share}`);
  const tokens = packed.reduce((sum, p) => sum + p.tokens.length, 0);
  const copies = Math.max(1, Math.min(Math.ceil(passes), MOST_COPIES, Math.floor(MOST_TOKENS / Math.max(1, tokens))));
  const shifted = objective.kind === 'mixed';
  const masking: Masking = {
    ...vocabulary,
    maskId: objective.maskId,
    bidirectional: objective.kind === 'masked' || objective.bidirectional === true,
    shifted,
  };
  const examples: Example[] = [];
  // Shares by stepping, not by chance: a copy of a short text has its part of both kinds, and each sequence meets both in turn.
  let due = stream.uniform();
  for (let copy = 0; copy < copies; copy++) {
    for (const one of packed) {
      due += share;
      if (due >= 1) {
        due -= 1;
        examples.push(maskedExample(one, masking, stream));
      } else examples.push(causalExample(one));
    }
    // An even number of sequences would give every copy of one the same kind at a share of a half.
    if (share < 1) due = (due + share / 2 + 0.137 * copy) % 1;
  }
  return examples;
}
