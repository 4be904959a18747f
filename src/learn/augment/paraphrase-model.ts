import { LearndError } from '../../base/errors.ts';
import { openGguf } from '../llama/index.ts';
import { type ChatMessage, renderChat } from '../model/chat.ts';
import { sha256OfFile } from '../model/formats/atomic-file.ts';
import { openModel } from '../model/open.ts';
import type { Checkpoint } from '../model/types.ts';

export interface Asked {
  readonly messages: readonly ChatMessage[];
  readonly maxTokens: number;
  readonly temperature: number;
  /** The same seed, messages and file give the same answer. */
  readonly seed: number;
}

/** A model that can be asked. One answer at a time, so that a seed fixes it. */
export interface ChatModel {
  readonly sha256: string;
  readonly checkpoint: Checkpoint;
  /** One line; `whole` is false where the model had not come to an end. */
  ask(asked: Asked): Promise<{ readonly text: string; readonly whole: boolean }>;
  close(): Promise<void>;
}

/** Instruction, examples and two texts of some hundred words. */
const CONTEXT_TOKENS = 2048;

/**
 * Opens a GGUF to be asked by its own chat template.
 * @throws LearndError('invalid') when it has none, as a model that never learned to chat, or is no single file
 */
export async function openChatModel(path: string): Promise<ChatModel> {
  if (!path.endsWith('.gguf'))
    throw new LearndError('invalid', `${path} is a folder: llama.cpp answers from GGUF files`, {
      field: 'model',
      hint: 'Make one: learnd model quantize DIR --type q8_0 --out FILE.gguf',
    });
  const checkpoint = await openModel(path);
  if (checkpoint.chatTemplate === undefined)
    throw new LearndError('invalid', `${path} cannot chat: it has no chat template, so it was not taught to answer`, {
      field: 'model',
      hint: 'Name a chat model, such as smollm2-135m.',
    });
  const sha256 = await sha256OfFile(path);
  const loaded = await openGguf(path);
  const contextSize = Math.min(CONTEXT_TOKENS, loaded.contextLength);
  const generator = await loaded.createGenerator({ sequences: 1, contextSize });
  return {
    sha256,
    checkpoint,
    async ask({ messages, maxTokens, temperature, seed }) {
      const prompt = renderChat(checkpoint, messages, { addGenerationPrompt: true });
      const tokens = checkpoint.tokenizer.encode(prompt, { allowSpecial: true });
      const out = await generator.generate({ tokens, maxTokens, temperature, topP: 0.9, seed, stop: ['\n'] });
      return { text: out.text, whole: out.reason === 'stop' };
    },
    async close() {
      await generator.dispose();
      await loaded.dispose();
    },
  };
}
