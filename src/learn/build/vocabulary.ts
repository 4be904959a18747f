/** The vocabulary of a model made from nothing: byte-level BPE, turns of a chat, the end of a text, and the gap of masked training. */
import { invalid } from '../../base/errors.ts';
import type { BpeTokenizer } from '../model/tokenizer/bpe.ts';
import { trainBpe } from '../model/tokenizer/train.ts';
import type { Tokenizer } from '../model/types.ts';

export const END_OF_TEXT = '<|endoftext|>';
export const MASK = '<|mask|>';
/** ChatML's turns come first: the first begins a text, the second ends an answer. */
export const SPECIALS = ['<|im_start|>', '<|im_end|>', END_OF_TEXT, MASK] as const;

/** ChatML. */
export const CHAT_TEMPLATE =
  "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}" +
  "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

export const trainVocabulary = (texts: Iterable<string>, size: number): BpeTokenizer => trainBpe(texts, size, SPECIALS);

const idOf = (tokenizer: Tokenizer, names: readonly string[]): number | undefined => {
  for (const name of names) {
    const ids = tokenizer.encode(name, { allowSpecial: true });
    if (ids.length === 1 && tokenizer.token(ids[0]!) === name) return ids[0];
  }
  return undefined;
};

/** What stands between documents. */
export const separatorOf = (tokenizer: Tokenizer): number | undefined =>
  idOf(tokenizer, [END_OF_TEXT, '</s>', '<|end_of_text|>']) ?? tokenizer.eosId;

/** @throws LearndError('invalid') naming `objective` when the vocabulary has no token for a gap */
export function maskOf(tokenizer: Tokenizer): number {
  const id = idOf(tokenizer, [MASK, '<mask>', '[MASK]']);
  if (id !== undefined) return id;
  throw invalid('objective', `the vocabulary has no token for a gap (${MASK}, <mask> or [MASK])`, {
    hint: 'Train the vocabulary here (--vocab), or pre-train on the causal objective.',
  });
}
