/** The shapes that the readers, the training engine, the compressors and the writers agree on. */

/** A Llama-family decoder: RMSNorm, RoPE (rotate-half), SwiGLU, grouped-query attention, tied or untied head. */
export interface ModelConfig {
  readonly vocabSize: number;
  readonly hidden: number;
  readonly layers: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  /** Feed-forward width of each layer: pruning may leave them uneven. Length = layers. */
  readonly ffn: readonly number[];
  readonly contextLength: number;
  readonly ropeTheta: number;
  readonly rmsEps: number;
  /** The output head shares the embedding matrix. */
  readonly tied: boolean;
  /** q/k/v projections carry biases (Qwen2 style). */
  readonly attentionBias: boolean;
  /** down_proj carries a bias: what pruned feed-forward neurons gave on average (FLAP). Absent: false. */
  readonly downBias?: boolean;
}

/** A float32 tensor on the JavaScript side, row-major. */
export interface HostTensor {
  readonly shape: readonly number[];
  readonly data: Float32Array;
}

/**
 * Weights by their Hugging Face names, in Hugging Face layout ([out, in] for linear layers; q and k rows in rotate-half
 * order: the permutation that GGUF's `llama` architecture applies is undone by the reader and redone by the writer):
 * `model.embed_tokens.weight`, `model.layers.N.input_layernorm.weight`, `model.layers.N.self_attn.{q,k,v,o}_proj.weight`
 * (`.bias` where attentionBias), `model.layers.N.post_attention_layernorm.weight`, `model.layers.N.mlp.{gate,up,down}_proj.weight`
 * (`mlp.down_proj.bias` where downBias), `model.norm.weight`, `lm_head.weight` (absent when tied).
 */
export interface WeightSource {
  names(): string[];
  shape(name: string): readonly number[];
  /**
   * Dequantized to float32; read on demand, so a big file is never held twice. `into`, an array of exactly the tensor's size, may be
   * filled and returned as its data: a caller that copies each tensor away reads them all into one array.
   */
  read(name: string, into?: Float32Array): HostTensor;
  /** Fills `out` with the rows from `row` on and says true; false where rows cannot be had one by one. */
  readRows?(name: string, row: number, out: Float32Array): boolean;
}

/** Encodes text to token ids and back. Same ids as the model's own tokenizer elsewhere (Hugging Face tokenizers). */
export interface Tokenizer {
  readonly vocabSize: number;
  readonly bosId: number | undefined;
  readonly eosId: number | undefined;
  /** No special tokens are added; text that spells a special token is encoded as ordinary text unless `allowSpecial`. */
  encode(text: string, options?: { allowSpecial?: boolean }): number[];
  decode(ids: readonly number[], options?: { skipSpecial?: boolean }): string;
  /** The token's text as stored (byte-level alphabet undone where it is valid UTF-8). */
  token(id: number): string;
}

/** A model opened from disk: GGUF file, or folder with config.json + *.safetensors + tokenizer.json. */
export interface Checkpoint {
  readonly path: string;
  readonly config: ModelConfig;
  readonly weights: WeightSource;
  readonly tokenizer: Tokenizer;
  /** Jinja chat template, where the model has one. */
  readonly chatTemplate: string | undefined;
  /** GGUF metadata or config.json as read, for lossless re-export. */
  readonly metadata: Readonly<Record<string, unknown>>;
}

/** A LoRA adapter: y = W x + (alpha / rank) B (A x). A: [rank, in], B: [out, rank], keyed by the linear weight's name. */
export interface LoraAdapter {
  readonly rank: number;
  readonly alpha: number;
  readonly pairs: ReadonlyMap<string, { a: HostTensor; b: HostTensor }>;
}

/** A softmax classifier on frozen features of one middle layer; labels in declared order. */
export interface Head {
  readonly task: string;
  readonly labels: readonly string[];
  /** sha256 of the base GGUF the features come from (adapter off). */
  readonly features: string;
  /** Number of blocks kept in the truncated feature model. */
  readonly layer: number;
  readonly pooling: 'mean';
  /** Subtracted from / divided into the raw feature before L2 normalisation; from public text only. [hidden] each. */
  readonly mean: Float32Array;
  readonly scale: Float32Array;
  /** [labels, hidden], row-major. */
  readonly weight: Float32Array;
  readonly bias: Float32Array;
}
