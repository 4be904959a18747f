import { invalid } from '../../base/errors.ts';
import type { Example } from '../model/engine/units.ts';
import type { Tokenizer } from '../model/types.ts';

/**
 * Next-token examples of ONE privacy unit's documents: each document is cut into pieces of at most `sequenceLength` tokens
 * that share one token (so every token but a document's first is predicted once), at most `maxExamples` of them, evenly
 * over the unit's pieces so that no document is favoured. Documents are never mixed with another unit's.
 */
export function unitExamples(
  documents: readonly (readonly number[])[],
  sequenceLength: number,
  maxExamples = Number.POSITIVE_INFINITY,
): Example[] {
  const alone = documents.map(tokens => ({ tokens, variants: [] }));
  return unitGroups(alone, sequenceLength, maxExamples).map(([example]) => example!);
}

/** A document with other wordings of it, all in tokens. */
export interface VariedDocument {
  readonly tokens: readonly number[];
  readonly variants: readonly (readonly number[])[];
}

/**
 * The same examples, each with the pieces that stand at its place in the variants of its document (fewer where a variant is shorter).
 * Which examples there are does not depend on the variants.
 */
export function unitGroups(
  documents: readonly VariedDocument[],
  sequenceLength: number,
  maxExamples = Number.POSITIVE_INFINITY,
): Example[][] {
  checkLength(sequenceLength);
  const pieces: Example[][] = [];
  for (const { tokens, variants } of documents)
    for (let at = 0; at + 1 < tokens.length; at += sequenceLength - 1)
      pieces.push(
        [tokens, ...variants.filter(variant => at + 1 < variant.length)].map(of => ({
          tokens: of.slice(at, at + sequenceLength),
        })),
      );
  if (pieces.length <= maxExamples) return pieces;
  return Array.from({ length: maxExamples }, (_, i) => pieces[Math.floor((i * pieces.length) / maxExamples)]!);
}

/**
 * Documents joined end to end, `separator` after each, and cut into full sequences: no padding is computed. For training
 * without privacy units only (public text, pre-training). The last piece may be short; one of a single token is dropped.
 */
export function packedExamples(
  documents: readonly (readonly number[])[],
  sequenceLength: number,
  separator: number | undefined,
): Example[] {
  checkLength(sequenceLength);
  const stream: number[] = [];
  for (const tokens of documents) {
    for (const token of tokens) stream.push(token);
    if (separator !== undefined && tokens.length > 0) stream.push(separator);
  }
  const pieces: Example[] = [];
  for (let at = 0; at + 1 < stream.length; at += sequenceLength - 1)
    pieces.push({ tokens: stream.slice(at, at + sequenceLength) });
  return pieces;
}

/**
 * An instruction example: loss on the answer only. Too long a prompt loses tokens from its front (the end of a prompt says
 * what is asked), at least half of the sequence being left to the answer. Undefined when the answer is empty.
 */
export function instructExample(
  prompt: readonly number[],
  answer: readonly number[],
  sequenceLength: number,
): Example | undefined {
  checkLength(sequenceLength);
  if (answer.length === 0) return undefined;
  const forAnswer = Math.min(answer.length, Math.max(Math.ceil(sequenceLength / 2), sequenceLength - prompt.length));
  const keptPrompt = prompt.slice(Math.max(0, prompt.length - (sequenceLength - forAnswer)));
  const keptAnswer = answer.slice(0, forAnswer);
  const tokens = [...keptPrompt, ...keptAnswer];
  if (tokens.length < 2) return undefined;
  return { tokens, mask: tokens.map((_, t) => t >= keptPrompt.length) };
}

function checkLength(sequenceLength: number): void {
  if (!Number.isInteger(sequenceLength) || sequenceLength < 2)
    throw invalid('sequence', `the sequence length must be a whole number of at least 2, not ${sequenceLength}`);
}

/** Texts, each one's privacy unit with it. */
export interface UnitDocuments {
  readonly documents: readonly { readonly unit: string; readonly text: string }[];
  readonly sequence: number;
  /** Examples of a unit, at most. Default: all. */
  readonly perUnit?: number;
}

/** `unitGroups` of each unit, in the order in which units come; `variants` by document. */
export function groupsOf(
  { documents, sequence, perUnit }: UnitDocuments,
  tokenizer: Pick<Tokenizer, 'encode'>,
  variants: readonly (readonly string[])[] = [],
): Example[][][] {
  const byUnit = new Map<string, VariedDocument[]>();
  for (const [i, { unit, text }] of documents.entries()) {
    const varied = {
      tokens: tokenizer.encode(text),
      variants: (variants[i] ?? []).map(other => tokenizer.encode(other)),
    };
    const before = byUnit.get(unit);
    if (before) before.push(varied);
    else byUnit.set(unit, [varied]);
  }
  return [...byUnit.values()].map(of => unitGroups(of, sequence, perUnit));
}
