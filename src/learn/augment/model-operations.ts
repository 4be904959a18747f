/** What a chat model is asked for: a text in other words, or a new text for a label. */
export const MODEL_OPERATIONS = ['paraphrase', 'back-generation'] as const;
export type ModelOperation = (typeof MODEL_OPERATIONS)[number];

/** Where a variant comes from: with the model and its source, operation and seed make it again. */
export interface ModelVariant {
  readonly text: string;
  readonly operation: ModelOperation;
  readonly n: number;
  /** Of the sampling. */
  readonly seed: number;
}
