import { Template } from '@huggingface/jinja';
import { LearndError } from '../../base/errors.ts';
import { BpeTokenizer } from './tokenizer/bpe.ts';
import type { Checkpoint } from './types.ts';

export interface ChatMessage {
  readonly role: 'system' | 'user' | 'assistant';
  readonly content: string;
}

const compiled = new Map<string, Template>();

/** ChatML, for a model that says nothing of its own. */
const CHATML =
  "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}" +
  "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/**
 * The conversation as the model was taught to see it: its own Jinja template, else ChatML. Encode the result with
 * `allowSpecial`. `addGenerationPrompt` ends it where the assistant's answer begins.
 */
export function renderChat(
  checkpoint: Pick<Checkpoint, 'chatTemplate' | 'tokenizer' | 'path'>,
  messages: readonly ChatMessage[],
  options: { addGenerationPrompt?: boolean } = {},
): string {
  const source = checkpoint.chatTemplate ?? CHATML;
  try {
    let template = compiled.get(source);
    if (template === undefined) {
      template = new Template(source);
      compiled.set(source, template);
    }
    return template.render({
      messages: messages.map(message => ({ ...message })),
      add_generation_prompt: options.addGenerationPrompt ?? false,
      bos_token: tokenText(checkpoint, 'bosId'),
      eos_token: tokenText(checkpoint, 'eosId'),
    });
  } catch (cause) {
    throw new LearndError('invalid', `${checkpoint.path}: the chat template failed: ${(cause as Error).message}`, {
      field: 'chat_template',
      hint: 'The template may not allow this order of roles.',
      cause,
    });
  }
}

function tokenText(checkpoint: Pick<Checkpoint, 'tokenizer'>, which: 'bosId' | 'eosId'): string {
  const { tokenizer } = checkpoint;
  const id = tokenizer[which];
  if (id === undefined) return '';
  return tokenizer instanceof BpeTokenizer ? tokenizer.spec.tokens[id]! : tokenizer.token(id);
}
