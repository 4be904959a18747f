/** What `learnd train` begins, seals and reports: what its parts for heads and for text share. */
import type { TrainOptions } from './train-options.ts';

export interface Trained {
  readonly steps: number;
  /** null: trained without noise. */
  readonly epsilon: number | null;
  readonly delta: number | null;
  /** Of the steps; of the one release where there are none. */
  readonly noise_multiplier: number | null;
  readonly loss: readonly (number | null)[];
  readonly seconds_per_step: number;
  readonly tokens_per_second: number;
  readonly peak_rss_mb: number;
  readonly out: string;
}

/** What a folder's seal holds: the training as it was asked for, and what it was begun with. */
export interface Begun {
  readonly options: TrainOptions;
  /** sha256 of the data file and of the model. */
  readonly data: string;
  readonly model: string;
  /** Noise multipliers as computed when it began: of the histogram and of the steps. */
  readonly noise: { readonly histogram?: number; readonly steps?: number };
}

export interface TrainJob {
  /** With paths that hold wherever the program is started. */
  readonly options: TrainOptions & { readonly out: string };
  readonly seed: Uint8Array;
  /** Where state and seed are while it runs. */
  readonly folder: string;
  readonly data: string;
  readonly model: string;
  /** Of a training that goes on. */
  readonly begun: Begun | undefined;
}

/** The most memory this process has held so far. */
export const peakRssMb = (): number => Math.round(process.resourceUsage().maxRSS / 1024);
