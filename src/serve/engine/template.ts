import type { EngineMessage } from './protocol.ts';

/** Renders a conversation up to where the assistant's next answer begins. */
export type RenderChat = (messages: readonly EngineMessage[]) => { text: string; stop: readonly string[] };

/** A model without a chat template (one built from scratch) gets the plainest form there is. */
const plain: RenderChat = messages => {
  const names = { system: 'System', user: 'User', assistant: 'Assistant' };
  const turns = messages.map(message => `${names[message.role]}: ${message.content}\n`);
  return { text: `${turns.join('')}Assistant:`, stop: ['\nUser:', '\nSystem:', '\nAssistant:'] };
};

/** ChatML, with the system message that the template puts in when a conversation has none (SmolLM2, Qwen2). */
const chatml = (template: string): RenderChat => {
  const preset = template.match(/<\|im_start\|>system\n([^<{}'"]*?)<\|im_end\|>/)?.[1]?.trim();
  return messages => {
    const all =
      messages[0]?.role === 'system' || !preset
        ? messages
        : [{ role: 'system' as const, content: preset }, ...messages];
    const turns = all.map(message => `<|im_start|>${message.role}\n${message.content}<|im_end|>\n`);
    return { text: `${turns.join('')}<|im_start|>assistant\n`, stop: [] };
  };
};

export function renderer(template: string | undefined, _special: { bos: string; eos: string }): RenderChat {
  if (template === undefined || template.trim() === '') return plain;
  return chatml(template);
}
