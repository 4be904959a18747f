/**
 * A llama.cpp context with several sequences: answers generated side by side in one batch, each sequence keeping the cache of what
 * it saw last, so that a conversation's next turn evaluates only what is new. The cache belongs to the context, hence to one version.
 */
import type { LlamaContext, LlamaContextSequence, LlamaModel, Token, TokenBias } from 'node-llama-cpp';
import { LearndError } from '../../base/errors.ts';
import { type LabelScore, type LabelScoreOptions, scoreLabels } from './labels.ts';
import { type LogitBias, tokenBias } from './logit-bias.ts';
import { StreamingText } from './text.ts';

export interface GeneratorOptions {
  /** Answers at once. Default 1. */
  sequences?: number;
  /** Tokens of each sequence (prompt and answer). Default and upper bound: what the model was trained for. */
  contextSize?: number;
  /** Tokens evaluated in one step at most; it also sizes the working memory (batch x vocabulary x 4 bytes). Default 512. */
  batchSize?: number;
  /** Default 1: 2 threads in one context were slower, with collapses, on 2 cores (SmolLM2-135M). */
  threads?: number;
  /** GGUF LoRA over the model's weights, for this context only. Scale 0 answers exactly like the base. */
  adapter?: { path: string; scale: number };
  /** Added to the logits of every generation here. */
  logitBias?: LogitBias;
}

export interface GenerateOptions {
  tokens: readonly number[];
  maxTokens: number;
  /** 0: greedy. */
  temperature?: number;
  topP?: number;
  /** For temperature > 0; the same seed, prompt and version give the same answer while nothing else runs in the batch. */
  seed?: number;
  logitBias?: LogitBias;
  /** Ends before any of these texts. */
  stop?: readonly string[];
  /** Takes effect within one token (in the prompt: one block of 64). */
  signal?: AbortSignal;
  /** Text as it becomes certain; concatenated it is the answer. Never splits a character. */
  onText?: (delta: string) => void;
}

export interface GenerateOutcome {
  reason: 'stop' | 'length' | 'cancelled';
  text: string;
  tokens: number[];
  /** How many prompt tokens came out of the sequence's cache. */
  cachedTokens: number;
}

/** Prompt tokens evaluated between two looks at the abort signal: about 0.3 s on one busy core, and others in the batch wait no longer. */
const PREFILL_BLOCK = 64;

export class Generator {
  readonly #model: LlamaModel;
  readonly #context: LlamaContext;
  readonly #logitBias: LogitBias;
  /** Built once: a bias over the whole vocabulary has 49k entries. */
  readonly #ownBias: TokenBias | undefined;
  readonly #free: LlamaContextSequence[] = [];
  readonly #waiting: Array<{ prompt: readonly number[]; take: (sequence: LlamaContextSequence) => void }> = [];
  readonly sequences: number;
  #active = 0;
  #disposed = false;

  private constructor(model: LlamaModel, context: LlamaContext, logitBias: LogitBias) {
    this.#model = model;
    this.#context = context;
    this.#logitBias = logitBias;
    this.#ownBias = tokenBias(model, logitBias);
    this.sequences = context.totalSequences;
    for (let n = 0; n < this.sequences; n++) this.#free.push(context.getSequence());
  }

  static async create(model: LlamaModel, options: GeneratorOptions): Promise<Generator> {
    const contextSize = Math.min(options.contextSize ?? model.trainContextSize, model.trainContextSize);
    const context = await model.createContext({
      sequences: options.sequences ?? 1,
      contextSize,
      batchSize: Math.max(PREFILL_BLOCK, Math.min(options.batchSize ?? 512, contextSize)),
      threads: options.threads ?? 1,
      failedCreationRemedy: false,
      ...(options.adapter && {
        lora: { adapters: [{ filePath: options.adapter.path, scale: options.adapter.scale }] },
      }),
    });
    return new Generator(model, context, options.logitBias ?? []);
  }

  /** Tokens of one sequence. */
  get contextSize(): number {
    return Math.min(this.#context.contextSize, this.#model.trainContextSize);
  }

  get active(): number {
    return this.#active;
  }

  /** Throws 'invalid' (data.code context_length_exceeded) when the prompt leaves no room for one token, and when it is empty. */
  async generate(options: GenerateOptions): Promise<GenerateOutcome> {
    const prompt = options.tokens as readonly Token[];
    if (prompt.length === 0) throw new LearndError('invalid', 'the prompt has no tokens', { field: 'input' });
    const room = this.contextSize - prompt.length;
    if (room < 1) {
      throw new LearndError(
        'invalid',
        `the prompt has ${prompt.length} tokens; the context holds ${this.contextSize}`,
        {
          field: 'input',
          hint: 'Shorten the input, or ask for truncation: "auto".',
          data: { code: 'context_length_exceeded' },
        },
      );
    }
    const outcome: GenerateOutcome = { reason: 'length', text: '', tokens: [], cachedTokens: 0 };
    const text = new StreamingText(
      (tokens, last) => this.#model.detokenize(tokens as Token[], false, last as Token[]),
      options.stop,
    );
    const emit = (delta: string) => {
      if (delta === '') return;
      outcome.text += delta;
      options.onText?.(delta);
    };
    const limit = Math.min(options.maxTokens, room);
    await this.#withSequence(prompt, options.signal, async sequence => {
      outcome.cachedTokens = await this.#prefill(sequence, prompt, options.signal);
      if (options.signal?.aborted || limit < 1) return;
      for await (const token of sequence.evaluate(
        prompt.slice(sequence.nextTokenIndex) as Token[],
        this.#sampling(options),
      )) {
        if (options.signal?.aborted) break;
        outcome.tokens.push(token);
        emit(text.push(token));
        if (text.stopped) outcome.reason = 'stop';
        if (text.stopped || outcome.tokens.length >= limit) return;
      }
      if (!options.signal?.aborted) outcome.reason = 'stop';
    });
    emit(text.end());
    if (options.signal?.aborted) outcome.reason = 'cancelled';
    return outcome;
  }

  /**
   * Probabilities of `labels` as the continuation of `tokens`: see labels.ts. The first `shared` tokens stay cached for the next call.
   * In a context with one sequence the same call gives the same bits, whatever was evaluated before: the blocks are always the same.
   */
  async scoreLabels(options: Omit<LabelScoreOptions, 'logitBias'> & { shared?: number }): Promise<LabelScore> {
    const tokens = options.tokens as readonly Token[];
    const shared = Math.min(options.shared ?? 0, tokens.length - 1);
    return await this.#withSequence(tokens, options.signal, async sequence => {
      await sequence.adaptStateToTokens(tokens.slice(0, shared), false);
      if (sequence.nextTokenIndex < shared) await sequence.clearHistory();
      await this.#evaluate(sequence, tokens.slice(0, shared), options.signal);
      await this.#evaluate(sequence, tokens.slice(0, -1), options.signal);
      options.signal?.throwIfAborted();
      return scoreLabels(sequence, { ...options, logitBias: this.#logitBias });
    });
  }

  async dispose(): Promise<void> {
    this.#disposed = true;
    await this.#context.dispose();
  }

  /** Evaluates all but the last token of the prompt, from the first one that the sequence has not cached. */
  async #prefill(
    sequence: LlamaContextSequence,
    prompt: readonly Token[],
    signal: AbortSignal | undefined,
  ): Promise<number> {
    await sequence.adaptStateToTokens(prompt.slice(0, -1), false);
    const cached = sequence.nextTokenIndex;
    await this.#evaluate(sequence, prompt.slice(0, -1), signal);
    return cached;
  }

  /** Evaluates what the sequence, holding a beginning of `tokens`, lacks of them. */
  async #evaluate(sequence: LlamaContextSequence, tokens: Token[], signal: AbortSignal | undefined): Promise<void> {
    while (sequence.nextTokenIndex < tokens.length && !signal?.aborted) {
      const from = sequence.nextTokenIndex;
      await sequence.evaluateWithoutGeneratingNewTokens(tokens.slice(from, from + PREFILL_BLOCK));
    }
  }

  #sampling(options: GenerateOptions) {
    const temperature = options.temperature ?? 0;
    const bias = options.logitBias ? tokenBias(this.#model, [...this.#logitBias, ...options.logitBias]) : this.#ownBias;
    return {
      temperature,
      ...(temperature > 0 && { topP: options.topP ?? 1, ...(options.seed !== undefined && { seed: options.seed }) }),
      ...(bias && { tokenBias: bias }),
    };
  }

  async #withSequence<T>(
    prompt: readonly number[],
    signal: AbortSignal | undefined,
    use: (sequence: LlamaContextSequence) => Promise<T>,
  ): Promise<T> {
    if (this.#disposed) throw new LearndError('not_ready', 'this model version has been unloaded');
    const sequence = await this.#take(prompt, signal);
    this.#active++;
    try {
      return await use(sequence);
    } finally {
      this.#active--;
      this.#give(sequence);
    }
  }

  #take(prompt: readonly number[], signal: AbortSignal | undefined): Promise<LlamaContextSequence> {
    const best = this.#pick(prompt);
    if (best !== undefined) return Promise.resolve(best);
    return new Promise((resolve, reject) => {
      const place = {
        prompt,
        take: (sequence: LlamaContextSequence) => {
          signal?.removeEventListener('abort', leave);
          resolve(sequence);
        },
      };
      const leave = () => {
        const at = this.#waiting.indexOf(place);
        if (at >= 0) this.#waiting.splice(at, 1);
        reject(new LearndError('canceled', 'cancelled while waiting for a free sequence'));
      };
      this.#waiting.push(place);
      signal?.addEventListener('abort', leave, { once: true });
    });
  }

  /** The free sequence whose cache shares the longest beginning with the prompt; the least recently used one breaks ties. */
  #pick(prompt: readonly number[]): LlamaContextSequence | undefined {
    let best = -1;
    let length = -1;
    for (const [index, sequence] of this.#free.entries()) {
      const cached = sequence.contextTokens;
      let same = 0;
      while (same < cached.length && same < prompt.length && cached[same] === prompt[same]) same++;
      if (same > length) [best, length] = [index, same];
    }
    return best < 0 ? undefined : this.#free.splice(best, 1)[0];
  }

  #give(sequence: LlamaContextSequence): void {
    const next = this.#waiting.shift();
    if (next) next.take(sequence);
    else this.#free.push(sequence);
  }
}
