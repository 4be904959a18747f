/** What `rounds.work` holds: everything a resumed round needs, and no private text. */

import type { Seed } from '../../events/holdout.ts';
import type { Blob, Card, CompressionFigure, VersionManifest } from '../../learn/model/version.ts';
import type { Mechanism } from '../../learn/privacy/mechanism.ts';
import type { ConstraintReport, ConstraintSpec } from '../../learn/training/constraints/spec.ts';
import type { Gaps } from '../../learn/training/pretrain-examples.ts';
import type { NoiseInput } from '../../learn/worker/types.ts';
import type { RoundRow } from '../../store/rounds.ts';

/** The privacy plan of one training, from public constants alone. */
export interface Noise extends Omit<NoiseInput, 'seed'> {
  /**
   * 64 hex digits: sampling and noise of this training. A retry after a crash makes the same release again instead of a second
   * one. As secret as the data, and destroyed when the training is settled.
   */
  readonly seed?: string;
}

/** Against forgetting: share of public replay in a step, weight of the KL to the base, decay of an average of the iterates. */
interface Forgetting {
  readonly replay?: number;
  readonly kl?: number;
  readonly ema?: number;
}

interface TrainingBase {
  readonly minutes: number;
  /** Of its steps. */
  readonly noise?: Noise;
}

export interface HeadTraining extends TrainingBase {
  readonly kind: 'head';
  readonly task: string;
  readonly labels: readonly string[];
  readonly noise: Noise;
  /** Variants of each text that count with it as one example. */
  readonly augment?: number;
  /** Start from the champion's head. */
  readonly goOn?: boolean;
}

/**
 * On documents, in up to two parts: a histogram of tokens (a bias on the vocabulary's logits), and steps of a method. Neither has
 * noise: on documents of sources declared public.
 */
export interface TextTraining extends TrainingBase, Forgetting {
  /** What the steps train; `bias`: the histogram is all. */
  readonly kind: 'bias' | 'norms' | 'lora' | 'full';
  /** Of the histogram, before the steps. */
  readonly histogram?: Noise;
  /** Gaps to fill, beside next words or in their place. */
  readonly gaps?: Gaps;
  /** Variants of each document that count with it as one, in the steps. */
  readonly augment?: number;
}

/** On what people said about answers, or on labels by the language model itself. */
export interface FeedbackTraining extends TrainingBase, Forgetting {
  readonly kind: 'feedback';
  readonly method: 'norms' | 'lora' | 'full';
  readonly objective: 'instruct' | 'preference' | 'classify';
  /** Variants of what was asked, of each row, that count with it as one. */
  readonly augment?: number;
  /** For `classify`. */
  readonly task?: string;
  readonly labels?: readonly string[];
  readonly noise: Noise;
}

/** Trains nothing: statistics of private documents for the pruning that follows, released as a training's steps are. */
export interface CalibrationTraining extends TrainingBase {
  readonly kind: 'calibration';
  readonly noise: Noise;
  readonly ffn?: number;
  readonly dropLayers?: number;
}

export type Training = HeadTraining | TextTraining | FeedbackTraining | CalibrationTraining;

export interface Compression {
  readonly prune?: { readonly ffn?: number; readonly dropLayers?: number };
  /** `teacher`: number of a version; without it, the candidate before pruning. */
  readonly distill?: { readonly teacher?: number; readonly minutes: number };
  readonly quantize?: string;
}

/** What a training did; no figure here depends on the data except through the noised result. */
export interface Trained {
  readonly kind: Training['kind'];
  readonly task?: string;
  /** Of feedback. */
  readonly objective?: FeedbackTraining['objective'];
  readonly steps: number;
  readonly seconds: number;
  /** Tokens with a bias, of all rounds together. */
  readonly biased?: number;
  /** What calibration released. */
  readonly statistics?: Blob;
}

export interface Figures {
  readonly champion: Card;
  readonly candidate: Card;
  /** The candidate's results for the monitor; kept until it is published. */
  readonly seed: Seed;
}

export interface RoundWork {
  readonly trainings?: readonly Training[];
  /** Declared by the actions, in their order. */
  readonly constraints?: readonly ConstraintSpec[];
  /** What the constraints were and are: of champion and candidate. */
  readonly constrained?: readonly ConstraintReport[];
  readonly compression?: Compression;
  /** Rows in the frozen view, by kind. */
  readonly view?: { readonly feedback: number; readonly documents: number };
  readonly reserved?: readonly Mechanism[];
  /** Set before the first noised step can have happened. */
  readonly begun?: boolean;
  readonly trained?: readonly Trained[];
  /** Of pruning, distillation and quantization; goes onto the candidate's card. */
  readonly compressed?: readonly CompressionFigure[];
  /** The candidate as far as it is made. */
  readonly manifest?: VersionManifest;
  readonly measured?: Figures;
  readonly notes?: readonly string[];
}

export const workOf = (round: RoundRow): RoundWork => round.work as RoundWork;

/** What a training releases when all its steps are done. */
export const mechanismOf = (noise: Noise, steps = noise.steps): Mechanism => ({
  noise_multiplier: noise.noiseMultiplier,
  sample_rate: noise.sampleRate,
  steps,
  ...(noise.countShare !== undefined && { parts: partsOf(noise.noiseMultiplier, noise.countShare) }),
});

/** What a step is made of (privacy/plan.ts), for whoever reads the ledger. */
const partsOf = (sigma: number, share: number) => ({
  gradients: sigma / Math.sqrt(1 - share),
  outcomes: sigma / Math.sqrt(share),
});

/** Of its parts, in the order in which they are released. None: it adds no noise. */
export const noisesOf = (training: Training): Noise[] =>
  [histogramOf(training), training.noise].filter(noise => noise !== undefined);

export const histogramOf = (training: Training): Noise | undefined =>
  'histogram' in training ? training.histogram : undefined;

/** All that a training may release, or what it did release when its steps ended early. */
export const mechanismsOf = (training: Training, steps?: number): Mechanism[] => {
  const histogram = histogramOf(training);
  const { noise } = training;
  return [
    ...(histogram ? [mechanismOf(histogram)] : []),
    ...(noise && steps !== 0 ? [mechanismOf(noise, steps ?? noise.steps)] : []),
  ];
};
