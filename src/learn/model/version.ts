/** What a version is made of, as stored in the registry (relative files) and as opened by an engine (absolute paths). */

/** A file of the artifacts store: immutable, named by its content (`blobs/<sha256>.<ext>` below the artifacts root). */
export interface Blob {
  readonly file: string;
  readonly sha256: string;
  readonly bytes: number;
}

export interface HeadEntry extends Blob {
  /** The truncated feature model (GGUF, llama-embed) that both training and serving read features from. */
  readonly features: Blob;
  /** sha256 of the base GGUF the feature model was cut from; adapter off. */
  readonly base: string;
  readonly layer: number;
  readonly pooling: 'mean';
  readonly labels: readonly string[];
}

export interface VersionManifest {
  readonly base: { readonly name: string; readonly sha256: string };
  /** Full weights, GGUF. */
  readonly model: Blob & { readonly quantization: string; readonly parameters: number };
  /** LoRA on top of `model`, GGUF. */
  readonly adapter?: Blob & { readonly scale: number; readonly rank: number };
  readonly heads: Readonly<Record<string, HeadEntry>>;
  /** JSON file [[token id, bias], …] added to the logits. */
  readonly logit_bias?: Blob;
  readonly chat_template?: string;
}

/** Absolute paths: what the llama.cpp engine and the compute worker take. */
export interface VersionFiles {
  /** `name@N`. */
  readonly version: string;
  readonly sha256: string;
  readonly model: string;
  readonly adapter?: { readonly path: string; readonly scale: number };
  readonly logitBias?: readonly (readonly [number, number])[];
  readonly heads: Readonly<
    Record<
      string,
      { readonly file: string; readonly features: string; readonly layer: number; readonly labels: readonly string[] }
    >
  >;
  readonly chatTemplate?: string;
}

/** One version as it is measured. */
export interface Subject {
  readonly files: Pick<VersionFiles, 'model' | 'adapter' | 'logitBias' | 'heads'>;
  readonly parameters: number;
  /** Of the language model: weights and adapter. */
  readonly bytes: number;
}

/** Figures on a version's card, measured once by `evaluate` on held-out users; null: the deployment has nothing to measure it on. */
export interface Card {
  readonly perplexity: number | null;
  readonly perplexity_standard_error: number | null;
  readonly f1: number | null;
  readonly parameters: number;
  readonly size_mb: number;
  readonly tokens_per_second: number | null;
  /** Of a version that was made smaller: what each step did to the perplexity of public sentences, there being no documents needed. */
  readonly compressed?: readonly CompressionFigure[];
}

export interface CompressionFigure {
  readonly step: 'prune' | 'distill' | 'quantize';
  /** Of the sentences that come with learnd, before and after the step. */
  readonly perplexity_before: number;
  readonly perplexity: number;
  /** Relative, with the standard error of the sentences' differences. */
  readonly change: number;
  readonly change_standard_error: number | null;
}
