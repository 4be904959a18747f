import { invalid, LearndError } from '../../../base/errors.ts';
import type { Tokenizer } from '../types.ts';
import { BYTE_TO_CHAR, bytesOfToken } from './byte-alphabet.ts';
import { MergeHeap } from './merge-heap.ts';
import { PRE, type PreName, pieces } from './pretokenize.ts';

/** llama.cpp's token types (llama.h, enum llama_token_type). */
export const TOKEN = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5 } as const;

/** Everything a byte-level BPE tokenizer is made of; what GGUF and tokenizer.json store. */
export interface BpeSpec {
  /** By id, in the byte alphabet (control and user-defined tokens as plain text). */
  readonly tokens: readonly string[];
  readonly types: readonly number[];
  /** In order of rank. */
  readonly merges: ReadonlyArray<readonly [string, string]>;
  readonly pre: PreName;
  readonly bosId?: number;
  readonly eosId?: number;
  readonly padId?: number;
  /** Declared by the file. */
  readonly unkId?: number;
  /** The unknown token stands in for bytes that are not in the vocabulary; otherwise they vanish (as elsewhere). */
  readonly emitUnknown?: boolean;
  /** Other programs put the first token in front of every text; learnd's `encode` never does. */
  readonly addBos?: boolean;
}

const CACHE_ENTRIES = 1 << 16;
const CACHED_PIECE = 64;
const encoder = new TextEncoder();

/** Byte-level byte-pair encoding with GPT-2's alphabet: the ids that Hugging Face tokenizers gives. */
export class BpeTokenizer implements Tokenizer {
  readonly spec: BpeSpec;
  readonly vocabSize: number;
  readonly bosId: number | undefined;
  readonly eosId: number | undefined;
  readonly #idOf = new Map<string, number>();
  readonly #byteId = new Int32Array(256);
  /** left id * vocabulary + right id -> rank */
  readonly #rank = new Map<number, number>();
  readonly #merged: Int32Array;
  readonly #always: RegExp | undefined;
  readonly #special: RegExp | undefined;
  readonly #cache = new Map<string, readonly number[]>();

  constructor(spec: BpeSpec, where = 'tokenizer') {
    this.spec = spec;
    const { tokens } = spec;
    this.vocabSize = tokens.length;
    this.bosId = spec.bosId;
    this.eosId = spec.eosId;
    for (const [name, id] of Object.entries({ bos: spec.bosId, eos: spec.eosId, pad: spec.padId, unk: spec.unkId })) {
      if (id !== undefined && !(Number.isInteger(id) && id >= 0 && id < tokens.length)) {
        throw damaged(where, `${name} token id ${id} is not below ${tokens.length}`);
      }
    }
    for (let id = tokens.length - 1; id >= 0; id--) this.#idOf.set(tokens[id]!, id);
    for (let b = 0; b < 256; b++) this.#byteId[b] = this.#idOf.get(BYTE_TO_CHAR[b]!) ?? -1;
    this.#merged = new Int32Array(spec.merges.length);
    for (const [rank, [left, right]] of spec.merges.entries()) {
      const l = this.#idOf.get(left);
      const r = this.#idOf.get(right);
      const whole = this.#idOf.get(left + right);
      if (l === undefined || r === undefined || whole === undefined) {
        throw damaged(where, `merge ${rank} ('${left} ${right}') names a token that is not in the vocabulary`);
      }
      this.#rank.set(l * tokens.length + r, rank);
      this.#merged[rank] = whole;
    }
    this.#always = matcher(spec, type => type === TOKEN.userDefined);
    this.#special = matcher(spec, type => type === TOKEN.userDefined || type === TOKEN.control);
  }

  idOf(token: string): number | undefined {
    return this.#idOf.get(token);
  }

  encode(text: string, options: { allowSpecial?: boolean } = {}): number[] {
    const out: number[] = [];
    const added = options.allowSpecial ? this.#special : this.#always;
    if (added === undefined) {
      this.#encodePlain(text, out);
      return out;
    }
    let at = 0;
    for (const match of text.matchAll(added)) {
      this.#encodePlain(text.slice(at, match.index), out);
      out.push(this.#idOf.get(match[0])!);
      at = match.index + match[0].length;
    }
    this.#encodePlain(text.slice(at), out);
    return out;
  }

  #encodePlain(text: string, out: number[]): void {
    if (text === '') return;
    const normal = PRE[this.spec.pre].nfc ? text.normalize('NFC') : text;
    for (const piece of pieces(this.spec.pre, normal)) {
      const cached = this.#cache.get(piece);
      const ids = cached ?? this.#encodePiece(piece);
      for (const id of ids) out.push(id);
      if (cached === undefined && piece.length <= CACHED_PIECE) {
        if (this.#cache.size >= CACHE_ENTRIES) this.#cache.clear();
        this.#cache.set(piece, ids);
      }
    }
  }

  #encodePiece(piece: string): readonly number[] {
    const bytes = encoder.encode(piece);
    if (PRE[this.spec.pre].ignoreMerges) {
      let word = '';
      for (const byte of bytes) word += BYTE_TO_CHAR[byte];
      const whole = this.#idOf.get(word);
      if (whole !== undefined) return [whole];
    }
    const ids: number[] = [];
    for (const byte of bytes) {
      const id = this.#byteId[byte]!;
      if (id >= 0) ids.push(id);
      else if (this.spec.emitUnknown && this.spec.unkId !== undefined) ids.push(this.spec.unkId);
    }
    return this.#merge(ids);
  }

  /** Merges the lowest-ranked neighbours, leftmost first, until none is left: O(n log n) by a heap of (rank, place). */
  #merge(ids: number[]): number[] {
    const n = ids.length;
    if (n < 2) return ids;
    const next = new Int32Array(n);
    const prev = new Int32Array(n);
    const heap = new MergeHeap();
    for (let i = 0; i < n; i++) {
      next[i] = i + 1 < n ? i + 1 : -1;
      prev[i] = i - 1;
    }
    const offer = (i: number): void => {
      const rank = this.#rank.get(ids[i]! * this.vocabSize + ids[next[i]!]!);
      if (rank !== undefined) heap.push(rank, i);
    };
    for (let i = 0; i + 1 < n; i++) offer(i);
    while (heap.size > 0) {
      const { rank, place } = heap.pop();
      const right = next[place]!;
      // An entry is stale when its place was merged away or now stands before another token.
      if (ids[place]! < 0 || right < 0) continue;
      if (this.#rank.get(ids[place]! * this.vocabSize + ids[right]!) !== rank) continue;
      ids[place] = this.#merged[rank]!;
      ids[right] = -1;
      const after = next[right]!;
      next[place] = after;
      if (after >= 0) {
        prev[after] = place;
        offer(place);
      }
      if (prev[place]! >= 0) offer(prev[place]!);
    }
    return ids.filter(id => id >= 0);
  }

  decode(ids: readonly number[], options: { skipSpecial?: boolean } = {}): string {
    const parts: Uint8Array[] = [];
    let length = 0;
    for (const id of ids) {
      if (options.skipSpecial && this.spec.types[id] === TOKEN.control) continue;
      const bytes = this.bytes(id);
      parts.push(bytes);
      length += bytes.length;
    }
    const all = new Uint8Array(length);
    let at = 0;
    for (const part of parts) {
      all.set(part, at);
      at += part.length;
    }
    return new TextDecoder('utf-8', { ignoreBOM: true }).decode(all);
  }

  /** The bytes that one token stands for. */
  bytes(id: number): Uint8Array {
    const token = this.spec.tokens[id];
    if (token === undefined) throw invalid('ids', `token id ${id} is not below ${this.vocabSize}`);
    const type = this.spec.types[id];
    return type === TOKEN.control || type === TOKEN.userDefined ? encoder.encode(token) : bytesOfToken(token);
  }

  token(id: number): string {
    try {
      return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(this.bytes(id));
    } catch (error) {
      if (error instanceof LearndError) throw error;
      return this.spec.tokens[id]!; // a part of a character: as stored
    }
  }
}

function damaged(where: string, what: string): LearndError {
  return new LearndError('corrupt', `${where}: ${what}`, {
    field: 'tokenizer',
    hint: 'The vocabulary is damaged: fetch or export the model again.',
    retriable: false,
  });
}

/** Finds the tokens of the wanted types in text, the longest first where several begin. */
function matcher(spec: BpeSpec, wanted: (type: number) => boolean): RegExp | undefined {
  const found = spec.tokens.filter((token, id) => token !== '' && wanted(spec.types[id] ?? TOKEN.normal));
  if (found.length === 0) return undefined;
  found.sort((a, b) => b.length - a.length);
  return new RegExp(found.map(t => t.replace(/[\\^$.*+?()[\]{}|/]/g, '\\$&')).join('|'), 'gu');
}
