import { invalid } from '../../../base/errors.ts';
import { BpeTokenizer, TOKEN } from './bpe.ts';
import { BYTE_TO_CHAR } from './byte-alphabet.ts';
import { learnMerges, type Word } from './learn-merges.ts';
import { PRE, type PreName, pieces } from './pretokenize.ts';

const encoder = new TextEncoder();

/**
 * Learns a byte-level BPE vocabulary: ids 0 to 255 are the bytes by value, then one id a merge, then `specials` (control
 * tokens; the first begins a text, the second ends one; one alone does both). At each step the most frequent pair is merged;
 * equally frequent ones in the order of Hugging Face's BpeTrainer (its byte alphabet's order, then age). Ends early when no
 * pair is left, so `vocabSize` of the result may be smaller.
 * Sources: Sennrich et al., 1508.07909; karpathy/minbpe for the ids.
 */
export function trainBpe(
  texts: Iterable<string>,
  vocabSize: number,
  specials: readonly string[] = [],
  options: { pre?: PreName } = {},
): BpeTokenizer {
  if (!Number.isInteger(vocabSize) || vocabSize < 256 + specials.length || vocabSize > 1 << 20) {
    throw invalid('vocab', `must be between ${256 + specials.length} (the bytes and special tokens) and ${1 << 20}`);
  }
  const pre = options.pre ?? 'smollm';
  const merged = learnMerges(countPieces(texts, pre), {
    wanted: vocabSize - 256 - specials.length,
    next: 256,
    orderOf,
  });
  const tokens = [...BYTE_TO_CHAR];
  const merges: Array<readonly [string, string]> = [];
  for (const { left, right } of merged) {
    merges.push([tokens[left]!, tokens[right]!]);
    tokens.push(tokens[left]! + tokens[right]!);
  }
  const types = new Array<number>(tokens.length).fill(TOKEN.normal);
  const first = specials.length > 0 ? tokens.length : undefined;
  for (const special of specials) {
    tokens.push(special);
    types.push(TOKEN.control);
  }
  const eosId = first === undefined ? undefined : first + Math.min(1, specials.length - 1);
  return new BpeTokenizer({ tokens, types, merges, pre, bosId: first, eosId, padId: eosId });
}

/** The distinct pieces of the texts as bytes, with how often each occurs. */
function countPieces(texts: Iterable<string>, pre: PreName): Word[] {
  const counts = new Map<string, number>();
  for (const text of texts) {
    const normal = PRE[pre].nfc ? text.normalize('NFC') : text;
    for (const piece of pieces(pre, normal)) counts.set(piece, (counts.get(piece) ?? 0) + 1);
  }
  return [...counts].map(([piece, count]) => ({ symbols: [...encoder.encode(piece)], count }));
}

/** Byte -> its place among the alphabet's characters, which breaks ties. */
const ORDER: Int32Array = (() => {
  const order = new Int32Array(256);
  const sorted = [...BYTE_TO_CHAR.keys()].sort((a, b) => (BYTE_TO_CHAR[a]! < BYTE_TO_CHAR[b]! ? -1 : 1));
  for (const [place, byte] of sorted.entries()) order[byte] = place;
  return order;
})();
const orderOf = (id: number): number => (id < 256 ? ORDER[id]! : id);
