/** A version's results on held-out users, measured when it was evaluated: what the monitor's detectors start from. */
export interface Seed {
  /** 0 or 1 for each held-out labelled row. */
  readonly errors: readonly number[];
  /** Weighted F1 of the same rows; null: there are none. */
  readonly f1: number | null;
  /** Each held-out document: nats summed over its scored tokens. */
  readonly documents: ReadonlyArray<{ readonly nll: number; readonly tokens: number }>;
}
