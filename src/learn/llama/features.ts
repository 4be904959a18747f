/**
 * Features for classification heads: the mean over tokens of the RMS-normalised hidden state after block k, from a truncated GGUF
 * (architecture `llama-embed`, pooling type 1, causal). The same file and this same code for training and for serving.
 */
import type { LlamaEmbeddingContext, LlamaModel, Token } from 'node-llama-cpp';

export interface FeatureOptions {
  /** Longest text in tokens; longer ones are cut there. Also the batch: a text longer than a batch would be silently wrong. Default 512. */
  maxTokens?: number;
  /** Default 1: two threads in one context collapse; use two contexts instead. */
  threads?: number;
  /** Texts worked on at once, each in a context of its own. Default 1. */
  contexts?: number;
}

export class FeatureExtractor {
  readonly #model: LlamaModel;
  readonly #contexts: readonly LlamaEmbeddingContext[];
  readonly #maxTokens: number;
  /** Length of a feature vector. */
  readonly hidden: number;

  private constructor(model: LlamaModel, contexts: readonly LlamaEmbeddingContext[], maxTokens: number) {
    this.#model = model;
    this.#contexts = contexts;
    this.#maxTokens = maxTokens;
    this.hidden = model.embeddingVectorSize;
  }

  static async create(model: LlamaModel, options: FeatureOptions): Promise<FeatureExtractor> {
    const maxTokens = Math.max(8, Math.min(options.maxTokens ?? 512, model.trainContextSize));
    const contexts: LlamaEmbeddingContext[] = [];
    for (let i = 0; i < (options.contexts ?? 1); i++)
      contexts.push(
        await model.createEmbeddingContext({
          contextSize: maxTokens,
          batchSize: maxTokens,
          threads: options.threads ?? 1,
        }),
      );
    return new FeatureExtractor(model, contexts, maxTokens);
  }

  /**
   * [hidden] for each text, in order. A text without tokens (empty, or only what the tokenizer drops) gives zeros: llama.cpp would
   * give a vector of length 0. `signal` ends it between two texts.
   */
  async features(texts: readonly string[], signal?: AbortSignal): Promise<Float32Array[]> {
    const result = new Array<Float32Array>(texts.length);
    let next = 0;
    const work = async (context: LlamaEmbeddingContext): Promise<void> => {
      while (next < texts.length) {
        signal?.throwIfAborted();
        const i = next++;
        result[i] = await this.#one(context, texts[i]!);
      }
    };
    await Promise.all(this.#contexts.map(work));
    return result;
  }

  async #one(context: LlamaEmbeddingContext, text: string): Promise<Float32Array> {
    // Room for the beginning and end tokens that the embedding context adds where the tokenizer asks for them; the context must stay
    // longer than the input.
    const tokens = (this.#model.tokenize(text, false) as Token[]).slice(0, this.#maxTokens - 3);
    if (tokens.length === 0) return new Float32Array(this.hidden);
    const embedding = await context.getEmbeddingFor(tokens);
    return Float32Array.from(embedding.vector);
  }

  async dispose(): Promise<void> {
    await Promise.all(this.#contexts.map(context => context.dispose()));
  }
}
