import { LearndError } from '../../../base/errors.ts';

/** How text is cut before merging, by the name that GGUF's `tokenizer.ggml.pre` gives it. */
export type PreName = 'gpt-2' | 'smollm' | 'llama-bpe' | 'qwen2';

/*
 * Patterns as Hugging Face tokenizers has them. `\s` there is Unicode White_Space (JavaScript's has U+FEFF and lacks U+0085),
 * and a case-insensitive s also matches U+017F, the long s.
 */
const SPACE = '\\p{White_Space}';
const GPT2 = `'(?:s|t|re|ve|m|ll|d)| ?\\p{L}+| ?\\p{N}+| ?[^${SPACE}\\p{L}\\p{N}]+|${SPACE}+(?!\\P{White_Space})|${SPACE}+`;
const llama3 = (digits: string) =>
  `'(?:[sS\\u017F]|[tT]|[rR][eE]|[vV][eE]|[mM]|[lL][lL]|[dD])|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|${digits}` +
  `| ?[^${SPACE}\\p{L}\\p{N}]+[\\r\\n]*|${SPACE}*[\\r\\n]+|${SPACE}+(?!\\P{White_Space})|${SPACE}+`;

interface Pre {
  /** Applied one after another: each piece is cut into the pattern's matches and what lies between them. */
  readonly steps: readonly RegExp[];
  /** A piece that is a token as it stands is not merged (tiktoken's rule). */
  readonly ignoreMerges: boolean;
  /** Unicode normalization before everything. */
  readonly nfc: boolean;
}

export const PRE: Readonly<Record<PreName, Pre>> = {
  'gpt-2': { steps: [new RegExp(GPT2, 'gu')], ignoreMerges: false, nfc: false },
  smollm: { steps: [/\p{N}/gu, new RegExp(GPT2, 'gu')], ignoreMerges: false, nfc: false },
  'llama-bpe': { steps: [new RegExp(llama3('\\p{N}{1,3}'), 'gu')], ignoreMerges: true, nfc: false },
  qwen2: { steps: [new RegExp(llama3('\\p{N}'), 'gu')], ignoreMerges: false, nfc: true },
};

const ALIASES: Readonly<Record<string, PreName>> = {
  'gpt-2': 'gpt-2',
  smollm: 'smollm',
  'llama-bpe': 'llama-bpe',
  llama3: 'llama-bpe',
  'llama-v3': 'llama-bpe',
  qwen2: 'qwen2',
};

/** Throws when the name is not one whose rules are known: wrong cuts would give wrong ids without a sound. */
export function preNamed(name: string, where: string): PreName {
  const pre = Object.hasOwn(ALIASES, name) ? ALIASES[name] : undefined;
  if (pre !== undefined) return pre;
  throw new LearndError('invalid', `${where}: the pre-tokenizer '${name}' is not known`, {
    field: 'tokenizer.ggml.pre',
    hint: `Use a model whose pre-tokenizer is one of ${Object.keys(ALIASES).join(', ')}.`,
    retriable: false,
  });
}

/** The pieces of `text`, in order; joined they are the text. */
export function pieces(pre: PreName, text: string): string[] {
  let parts = text === '' ? [] : [text];
  for (const pattern of PRE[pre].steps) {
    const next: string[] = [];
    for (const part of parts) {
      let at = 0;
      for (const match of part.matchAll(pattern)) {
        if (match.index > at) next.push(part.slice(at, match.index));
        next.push(match[0]);
        at = match.index + match[0].length;
      }
      if (at < part.length) next.push(part.slice(at));
    }
    parts = next;
  }
  return parts;
}

const LLAMA3_HF = (digits: string) =>
  `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|${digits}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+`;

/** The same rules as tokenizer.json spells them. */
export function preTokenizerJson(pre: PreName): unknown {
  const byteLevel = (useRegex: boolean) => ({
    type: 'ByteLevel',
    add_prefix_space: false,
    trim_offsets: true,
    use_regex: useRegex,
  });
  const sequence = (...pretokenizers: unknown[]) => ({ type: 'Sequence', pretokenizers });
  const split = (regex: string) => ({
    type: 'Split',
    pattern: { Regex: regex },
    behavior: 'Isolated',
    invert: false,
  });
  switch (pre) {
    case 'gpt-2':
      return byteLevel(true);
    case 'smollm':
      return sequence({ type: 'Digits', individual_digits: true }, byteLevel(true));
    case 'llama-bpe':
      return sequence(split(LLAMA3_HF('\\p{N}{1,3}')), byteLevel(false));
    case 'qwen2':
      return sequence(split(LLAMA3_HF('\\p{N}')), byteLevel(false));
  }
}

interface PreJson {
  type?: string;
  pretokenizers?: PreJson[];
  pattern?: { Regex?: string };
  behavior?: string;
  invert?: boolean;
  individual_digits?: boolean;
  add_prefix_space?: boolean;
  use_regex?: boolean;
}

/** Recognizes the rules that tokenizer.json spells out. */
export function preFromJson(json: unknown, where: string): PreName {
  const steps: string[] = [];
  const walk = (node: PreJson | null, depth = 0): void => {
    if (typeof node !== 'object' || node === null) steps.push(JSON.stringify(node));
    else if (node.type === 'Sequence' && Array.isArray(node.pretokenizers) && depth < 8) {
      for (const child of node.pretokenizers) walk(child, depth + 1);
    } else if (node.type === 'Digits') steps.push(node.individual_digits ? 'digit' : 'digits');
    else if (node.type === 'ByteLevel' && node.add_prefix_space !== true) {
      steps.push(node.use_regex === false ? 'bytes' : 'gpt2');
    } else if (node.type === 'Split' && wholeSplit(node)) steps.push(node.pattern?.Regex ?? '?');
    else steps.push(JSON.stringify(node).slice(0, 200));
  };
  walk((json ?? {}) as PreJson);
  const key = steps.join(' + ');
  const known: Record<string, PreName> = {
    gpt2: 'gpt-2',
    'digit + gpt2': 'smollm',
    [`${LLAMA3_HF('\\p{N}{1,3}')} + bytes`]: 'llama-bpe',
    [`${LLAMA3_HF('\\p{N}')} + bytes`]: 'qwen2',
  };
  return Object.hasOwn(known, key) ? known[key]! : preNamed(key, where);
}

/** Both spellings cut into the matches (these patterns leave nothing between them). */
const wholeSplit = (node: PreJson): boolean =>
  (node.behavior === 'Isolated' && node.invert !== true) || (node.behavior === 'Removed' && node.invert === true);
