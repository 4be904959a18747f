import { LearndError } from '../../../base/errors.ts';
import type { GgufFile } from '../formats/gguf-read.ts';
import { bool, type GgufMetadata, type GgufValue, i32s, str, strings, u32 } from '../formats/gguf-value.ts';
import { type BpeSpec, BpeTokenizer, TOKEN } from './bpe.ts';
import { preNamed } from './pretokenize.ts';

function stringArray(file: GgufFile, key: string): readonly string[] {
  const value = file.metadata.get(key);
  if (value?.type === 'array' && value.of === 'string') return value.value as string[];
  throw new LearndError('corrupt', `${file.path}: metadata.${key} is ${value ? 'not a list of strings' : 'missing'}`, {
    field: key,
    retriable: false,
  });
}

/** The tokenizer that a GGUF file carries. */
export function tokenizerFromGguf(file: GgufFile): BpeTokenizer {
  return new BpeTokenizer(specFromGguf(file), file.path);
}

function specFromGguf(file: GgufFile): BpeSpec {
  const meta = file.metadata;
  const model = meta.get('tokenizer.ggml.model')?.value;
  if (model !== 'gpt2') {
    throw new LearndError('invalid', `${file.path}: the tokenizer model '${String(model)}' is not byte-level BPE`, {
      field: 'tokenizer.ggml.model',
      hint: "Use a model whose tokenizer.ggml.model is 'gpt2' (SmolLM2, Llama 3, Qwen2).",
      retriable: false,
    });
  }
  const tokens = stringArray(file, 'tokenizer.ggml.tokens');
  const types = meta.get('tokenizer.ggml.token_type')?.value;
  const merges = stringArray(file, 'tokenizer.ggml.merges').map(merge => {
    const space = merge.indexOf(' ', 1);
    return [merge.slice(0, space), merge.slice(space + 1)] as const;
  });
  const id = (key: string): number | undefined => {
    const value = meta.get(`tokenizer.ggml.${key}_token_id`)?.value;
    return typeof value === 'number' ? value : undefined;
  };
  return {
    tokens,
    types:
      Array.isArray(types) && types.length === tokens.length
        ? (types as number[])
        : new Array<number>(tokens.length).fill(TOKEN.normal),
    merges,
    pre: preNamed(String(meta.get('tokenizer.ggml.pre')?.value ?? ''), file.path),
    bosId: id('bos'),
    eosId: id('eos'),
    padId: id('padding'),
    unkId: id('unknown'),
    addBos: meta.get('tokenizer.ggml.add_bos_token')?.value === true,
  };
}

/** The metadata keys that llama.cpp reads a byte-level BPE tokenizer from. */
export function tokenizerToGguf(spec: BpeSpec): GgufMetadata {
  const out = new Map<string, GgufValue>([
    ['tokenizer.ggml.model', str('gpt2')],
    ['tokenizer.ggml.pre', str(spec.pre)],
    ['tokenizer.ggml.tokens', strings(spec.tokens)],
    ['tokenizer.ggml.token_type', i32s(spec.types)],
    ['tokenizer.ggml.merges', strings(spec.merges.map(([left, right]) => `${left} ${right}`))],
  ]);
  const ids = { bos: spec.bosId, eos: spec.eosId, unknown: spec.unkId, padding: spec.padId };
  for (const [name, id] of Object.entries(ids)) {
    if (id !== undefined) out.set(`tokenizer.ggml.${name}_token_id`, u32(id));
  }
  out.set('tokenizer.ggml.add_bos_token', bool(spec.addBos ?? false));
  out.set('tokenizer.ggml.add_space_prefix', bool(false));
  return out;
}
