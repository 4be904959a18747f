/**
 * Messages to prompt tokens by the model's chat template. What a user writes is text: a message that spells a special token
 * (`<|im_end|>`) is encoded as ordinary characters, so that nobody can end their turn and speak as someone else.
 */
import { invalid } from '../../base/errors.ts';
import type { GgufModel } from '../../learn/llama/runtime.ts';
import { renderChat } from '../../learn/model/chat.ts';
import type { Tokenizer } from '../../learn/model/types.ts';
import type { EngineMessage } from './protocol.ts';

export interface Prompt {
  readonly tokens: number[];
  /** Texts at which the answer ends although the model has no token for it (models without a chat template). */
  readonly stop: readonly string[];
  /** How many of the oldest turns were left out to fit. */
  readonly dropped: number;
}

/** Stands for a message's content while the template is rendered; from the private use area, and never in the output. */
const mark = (index: number): string => `\uE000${index}\uE001`;
/** Without a template the model may have no token that ends a turn, so the turn's written markup ends the answer. */
const MARKUP = ['<|im_end|>', '<|im_start|>'];
const MARKS = /\uE000(\d+)\uE001/;

export class PromptBuilder {
  readonly #model: GgufModel;
  readonly #template: string | undefined;

  /** `template`: Jinja; a model without one gets the ChatML that training gives it too. */
  constructor(model: GgufModel, template: string | undefined) {
    this.#model = model;
    this.#template = template;
  }

  /** `limit`: leave out the oldest turns (never the system message or the last turn) until it has at most so many tokens. */
  build(messages: readonly EngineMessage[], limit?: number): Prompt {
    if (messages.length === 0) throw invalid('input', 'there is no message to answer');
    let kept = [...messages];
    for (;;) {
      const tokens = this.#encode(kept);
      const oldest = kept.findIndex(message => message.role !== 'system');
      if (limit === undefined || tokens.length <= limit || oldest < 0 || oldest >= kept.length - 1) {
        return { tokens, stop: this.#template === undefined ? MARKUP : [], dropped: messages.length - kept.length };
      }
      kept = kept.filter((_, index) => index !== oldest);
    }
  }

  #render(messages: readonly EngineMessage[]): string {
    const { bosId, eosId, path } = this.#model;
    const token = (id: number): string => this.#model.detokenize([id], { special: true });
    const tokenizer = { bosId, eosId, token } as Tokenizer; // all that rendering asks of it
    return renderChat({ path, chatTemplate: this.#template, tokenizer }, messages, { addGenerationPrompt: true });
  }

  #encode(messages: readonly EngineMessage[]): number[] {
    const spelled = messages.some(message => this.#spellsSpecial(message.content));
    const tokens = spelled
      ? this.#encodeApart(messages)
      : this.#model.tokenize(this.#render(messages), { special: true });
    const bos = this.#model.bosId;
    return this.#model.addsBos && bos !== undefined && tokens[0] !== bos ? [bos, ...tokens] : tokens;
  }

  #spellsSpecial(content: string): boolean {
    return this.#model.tokenize(content, { special: true }).some(token => this.#model.isSpecial(token));
  }

  /** The template's own text with its special tokens, the messages as plain text between. */
  #encodeApart(messages: readonly EngineMessage[]): number[] {
    const text = this.#render(messages.map((message, index) => ({ role: message.role, content: mark(index) })));
    return text
      .split(MARKS)
      .flatMap((part, index) =>
        index % 2 === 0
          ? this.#model.tokenize(part, { special: true })
          : this.#model.tokenize(messages[Number(part)]!.content, { special: false }),
      );
  }
}
