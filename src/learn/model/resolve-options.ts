/** How a base model is fetched, whichever way it comes. */
export interface BaseProgress {
  /** One line for a person. */
  readonly message: string;
  readonly bytes?: number;
  readonly total?: number;
}

export interface ResolveOptions {
  /** Where fetched models are kept. */
  readonly cacheDir: string;
  readonly onProgress?: (progress: BaseProgress) => void;
  /** Makes the model for `scratch`: trains a small one and returns its GGUF file. */
  readonly scratch?: () => Promise<string>;
  readonly signal?: AbortSignal;
  /** Another model hub (a mirror) than the usual one. */
  readonly hub?: string;
}
