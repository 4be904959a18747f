/** The jobs of the compute worker: what each is asked and what it answers. */
import type { VersionFiles } from '../model/version.ts';
import type { CallOptions } from './process.ts';

/** What scoring needs of a version. */
export type ModelFiles = Pick<VersionFiles, 'model' | 'adapter' | 'logitBias'>;

export interface TextScore {
  /** Summed negative log-likelihood, nats, of all tokens but the first. */
  readonly nll: number;
  /** Tokens scored. */
  readonly tokens: number;
  /** UTF-8 bytes of the text. */
  readonly bytes: number;
  /** Nats of the first scored token alone: learning how texts start is cheap, so figures are reported with and without it. */
  readonly first: number | null;
}

export interface Classification {
  readonly label: string;
  /** Probability of each label asked for. */
  readonly scores: Readonly<Record<string, number>>;
}

export interface Jobs {
  perplexity: {
    input: { files: ModelFiles; texts: readonly string[]; threads: number };
    result: readonly TextScore[];
  };
  classify: {
    input: {
      files: Pick<VersionFiles, 'model' | 'adapter' | 'logitBias' | 'heads'>;
      task: string;
      labels: readonly string[];
      texts: readonly string[];
    };
    result: readonly Classification[];
  };
  features: {
    input: { model: string; texts: readonly string[] };
    /** [texts][hidden] */
    result: readonly Float32Array[];
  };
  speed: {
    input: { files: Pick<VersionFiles, 'model' | 'adapter'>; tokens: number };
    result: { readonly tokensPerSecond: number; readonly promptTokensPerSecond: number };
  };
}

export type JobName = keyof Jobs;

/**
 * Scores the live version for the monitor, and candidates for the round. The compute worker is one; tests have others.
 * Perplexity is float32 on dequantized weights with the adapter applied; classification is the version's head for the task
 * where its labels cover those asked for, else label scoring by the language model, exactly as served.
 */
export interface Scorer {
  perplexity(files: ModelFiles, texts: readonly string[], options?: CallOptions): Promise<readonly TextScore[]>;
  classify(
    files: Pick<VersionFiles, 'model' | 'adapter' | 'logitBias' | 'heads'>,
    task: string,
    labels: readonly string[],
    texts: readonly string[],
    options?: CallOptions,
  ): Promise<readonly Classification[]>;
}
