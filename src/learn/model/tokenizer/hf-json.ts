import { LearndError } from '../../../base/errors.ts';
import { readJsonObject } from '../formats/json-file.ts';
import { type BpeSpec, BpeTokenizer, TOKEN } from './bpe.ts';
import { PRE, preFromJson, preTokenizerJson } from './pretokenize.ts';

interface AddedToken {
  id: number;
  content: string;
  special?: boolean;
}

function damaged(path: string, what: string): LearndError {
  return new LearndError('corrupt', `${path}: ${what}`, { field: 'tokenizer.json', retriable: false });
}

/**
 * A byte-level BPE tokenizer from tokenizer.json; `tokenizerConfig` (tokenizer_config.json) and `modelConfig` (config.json)
 * say which tokens begin and end a text.
 */
export function readTokenizerJson(
  path: string,
  tokenizerConfig: Record<string, unknown> = {},
  modelConfig: Record<string, unknown> = {},
): BpeTokenizer {
  const json = readJsonObject(path);
  if (json === undefined) {
    throw new LearndError('not_found', `there is no ${path}`, {
      hint: 'Save the tokenizer with the model (tokenizer.json).',
      retriable: false,
    });
  }
  return new BpeTokenizer(specFromJson(path, json, tokenizerConfig, modelConfig), path);
}

function specFromJson(
  path: string,
  json: Record<string, unknown>,
  tokenizerConfig: Record<string, unknown>,
  modelConfig: Record<string, unknown>,
): BpeSpec {
  const model = (json.model ?? {}) as Record<string, unknown>;
  if (model.type !== 'BPE' || model.byte_fallback === true) {
    throw new LearndError('invalid', `${path}: the tokenizer model '${String(model.type)}' is not byte-level BPE`, {
      field: 'model.type',
      hint: 'Use a model with a byte-level BPE tokenizer (SmolLM2, Llama 3, Qwen2).',
      retriable: false,
    });
  }
  const pre = preFromJson(json.pre_tokenizer, path);
  checkNormalizer(path, json.normalizer, PRE[pre].nfc);
  const added = addedTokens(path, json.added_tokens ?? []);
  const { tokens, types } = vocabularyOf(path, model.vocab, added);
  const idOf = (key: string): number | undefined => {
    const named = tokenizerConfig[key];
    const text = typeof named === 'string' ? named : (named as { content?: unknown } | null | undefined)?.content;
    const id = tokens.indexOf(String(text));
    if (text !== undefined && id >= 0) return id;
    const declared = modelConfig[`${key}_id`];
    return typeof declared === 'number' ? declared : undefined;
  };
  const unkId = typeof model.unk_token === 'string' ? tokens.indexOf(model.unk_token) : -1;
  return {
    tokens,
    types,
    merges: mergesOf(path, model.merges),
    pre,
    bosId: idOf('bos_token'),
    eosId: idOf('eos_token'),
    padId: idOf('pad_token'),
    unkId: unkId >= 0 ? unkId : idOf('unk_token'),
    emitUnknown: unkId >= 0,
    addBos: prependsBos(json.post_processor),
  };
}

function addedTokens(path: string, list: unknown): AddedToken[] {
  if (!Array.isArray(list)) throw damaged(path, 'added_tokens is not a list');
  for (const [i, token] of list.entries()) {
    const { id, content } = (token ?? {}) as Partial<AddedToken>;
    if (!Number.isInteger(id) || id! < 0 || typeof content !== 'string')
      throw damaged(path, `added_tokens[${i}] has no id and content`);
  }
  return list as AddedToken[];
}

function vocabularyOf(
  path: string,
  vocab: unknown,
  added: readonly AddedToken[],
): { tokens: string[]; types: number[] } {
  if (typeof vocab !== 'object' || vocab === null) throw damaged(path, 'model.vocab is missing');
  const entries = Object.entries(vocab as Record<string, unknown>);
  const size = added.reduce((most, token) => Math.max(most, token.id + 1), entries.length);
  const limit = entries.length + added.length + 4096; // room for a few unused ids, not for a lie
  const tokens = new Array<string | undefined>(Math.min(size, limit)).fill(undefined);
  const types = new Array<number>(tokens.length).fill(TOKEN.unused);
  const put = (token: string, id: unknown, type: number): void => {
    if (!Number.isInteger(id) || (id as number) < 0 || (id as number) >= limit) {
      throw damaged(path, `token '${token}' has id ${String(id)}`);
    }
    tokens[id as number] = token;
    types[id as number] = type;
  };
  for (const [token, id] of entries) put(token, id, TOKEN.normal);
  for (const token of added) put(String(token.content), token.id, token.special ? TOKEN.control : TOKEN.userDefined);
  for (let id = 0; id < tokens.length; id++) {
    tokens[id] ??= `[PAD${id}]`;
    types[id] ??= TOKEN.unused;
  }
  return { tokens: tokens as string[], types };
}

function mergesOf(path: string, merges: unknown): Array<readonly [string, string]> {
  if (!Array.isArray(merges)) throw damaged(path, 'model.merges is missing');
  return merges.map((merge: unknown, rank) => {
    const pair = typeof merge === 'string' ? merge.split(' ') : merge;
    if (Array.isArray(pair) && pair.length === 2 && pair.every(p => typeof p === 'string')) {
      return pair as unknown as readonly [string, string];
    }
    throw damaged(path, `model.merges[${rank}] is not a pair of tokens`);
  });
}

function checkNormalizer(path: string, normalizer: unknown, nfc: boolean): void {
  const type = (normalizer as { type?: unknown } | null | undefined)?.type;
  if (normalizer == null || (type === 'NFC' && nfc)) return;
  throw new LearndError('invalid', `${path}: the normalizer '${String(type)}' is not known`, {
    field: 'normalizer',
    retriable: false,
  });
}

/** A TemplateProcessing whose single form begins with a special token. */
function prependsBos(post: unknown, depth = 0): boolean {
  if (depth > 8) return false;
  const node = (post ?? {}) as { type?: string; processors?: unknown[]; single?: Array<Record<string, unknown>> };
  if (node.type === 'Sequence') return [node.processors ?? []].flat().some(p => prependsBos(p, depth + 1));
  return node.type === 'TemplateProcessing' && node.single?.[0]?.SpecialToken !== undefined;
}

/** tokenizer.json as Hugging Face tokenizers reads it. */
export function tokenizerJson(spec: BpeSpec): Record<string, unknown> {
  const addedIds = spec.tokens.map((_, id) => id).filter(id => isAdded(spec.types[id]));
  const bos = spec.addBos && spec.bosId !== undefined ? spec.tokens[spec.bosId]! : undefined;
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: addedIds.map(id => ({
      id,
      content: spec.tokens[id],
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special: spec.types[id] === TOKEN.control,
    })),
    normalizer: PRE[spec.pre].nfc ? { type: 'NFC' } : null,
    pre_tokenizer: preTokenizerJson(spec.pre),
    post_processor:
      bos === undefined
        ? null
        : {
            type: 'TemplateProcessing',
            single: [{ SpecialToken: { id: bos, type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }],
            pair: [{ Sequence: { id: 'A', type_id: 0 } }, { Sequence: { id: 'B', type_id: 1 } }],
            special_tokens: { [bos]: { id: bos, ids: [spec.bosId], tokens: [bos] } },
          },
    decoder: { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true },
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: spec.emitUnknown && spec.unkId !== undefined ? spec.tokens[spec.unkId] : null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: PRE[spec.pre].ignoreMerges,
      vocab: Object.fromEntries(spec.tokens.map((token, id) => [token, id])),
      merges: spec.merges.map(([left, right]) => `${left} ${right}`),
    },
  };
}

const isAdded = (type: number | undefined): boolean => type === TOKEN.control || type === TOKEN.userDefined;
