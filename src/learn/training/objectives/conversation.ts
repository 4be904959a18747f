/** Prompts and answers as token sequences: the same tokens that serving feeds the model and reads from it. */
import { type ChatMessage, renderChat } from '../../model/chat.ts';
import type { Example } from '../../model/engine/units.ts';
import { BpeTokenizer } from '../../model/tokenizer/bpe.ts';
import type { Checkpoint, Tokenizer } from '../../model/types.ts';
import { instructExample } from '../examples.ts';

type Chat = Pick<Checkpoint, 'chatTemplate' | 'tokenizer' | 'path'>;

/** From the private use area: stands for a message's content while the template is rendered. */
const mark = (index: number): string => `\uE000${index}\uE001`;
const MARKS = /\uE000(\d+)\uE001/;

/**
 * The prompt as it is served, up to where the answer begins. A message that spells a special token is encoded as ordinary text, as
 * in serving: nobody's feedback can end a turn and speak as someone else.
 */
export function promptTokens(chat: Chat, messages: readonly ChatMessage[]): number[] {
  const { tokenizer } = chat;
  const spelled = messages.some(({ content }) => spellsSpecial(tokenizer, content));
  const tokens = spelled
    ? encodeApart(chat, messages)
    : tokenizer.encode(renderChat(chat, messages, { addGenerationPrompt: true }), { allowSpecial: true });
  const start = tokenizer instanceof BpeTokenizer && tokenizer.spec.addBos === true ? tokenizer.bosId : undefined;
  return start !== undefined && tokens[0] !== start ? [start, ...tokens] : tokens;
}

function encodeApart(chat: Chat, messages: readonly ChatMessage[]): number[] {
  const text = renderChat(
    chat,
    messages.map(({ role }, index) => ({ role, content: mark(index) })),
    { addGenerationPrompt: true },
  );
  return text
    .split(MARKS)
    .flatMap((part, index) =>
      index % 2 === 0
        ? chat.tokenizer.encode(part, { allowSpecial: true })
        : chat.tokenizer.encode(messages[Number(part)]!.content),
    );
}

const spellsSpecial = (tokenizer: Tokenizer, content: string): boolean =>
  tokenizer.encode(content, { allowSpecial: true }).join() !== tokenizer.encode(content).join();

/** The answer with what ends a turn under the model's template, so that it is learned where to stop; not `whole`: without. */
export function answerTokens(chat: Chat, answer: string, whole = true): number[] {
  if (!whole) return chat.tokenizer.encode(answer);
  const rendered = renderChat(chat, [
    { role: 'user', content: mark(0) },
    { role: 'assistant', content: mark(1) },
  ]);
  const end = (rendered.split(mark(1))[1] ?? '').trimEnd();
  return [...chat.tokenizer.encode(answer), ...chat.tokenizer.encode(end, { allowSpecial: true })];
}

/**
 * Answers to one prompt, loss on the answer only. Where they do not all fit, every one gets the same part of the prompt.
 * Undefined when an answer is empty.
 */
export function answerExamples(
  prompt: readonly number[],
  answers: readonly (readonly number[])[],
  sequenceLength: number,
): Example[] | undefined {
  const longest = Math.max(...answers.map(answer => answer.length));
  const kept = Math.max(Math.floor(sequenceLength / 2), sequenceLength - longest);
  const shared = prompt.slice(Math.max(0, prompt.length - kept));
  const examples = answers.map(answer => instructExample(shared, answer, sequenceLength));
  return examples.every(example => example !== undefined) ? (examples as Example[]) : undefined;
}
