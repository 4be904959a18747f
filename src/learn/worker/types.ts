/** The jobs of the compute worker: what each is asked and what it answers. */
import type { LayerMethod } from '../compress/by-text.ts';
import type { WidthMethod } from '../compress/scores.ts';
import type { VersionFiles } from '../model/version.ts';
import type { Clip } from '../privacy/plan.ts';
import type { ConstraintSpec, CountedConstraint } from '../training/constraints/spec.ts';
import type { FeedbackObjective, FeedbackRow } from '../training/objectives/feedback.ts';
import type { Gaps } from '../training/pretrain-examples.ts';
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

export interface ModelResult {
  readonly file: WrittenBlob;
  /** What most of its matrices are stored as. */
  readonly quantization: string;
  readonly parameters: number;
  readonly notes: readonly string[];
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
  /** Cuts the first blocks of a model off as the feature model of heads. */
  'feature-model': {
    input: { model: string; layers: number; out: string };
    /** `layers`: what was kept; fewer than asked for where the model has fewer. */
    result: WrittenBlob & { readonly layers: number };
  };
  'train-head': {
    input: {
      /** The feature model, the sha256 of the base it was cut from, and the blocks it keeps. */
      features: string;
      base: string;
      layer: number;
      task: string;
      labels: readonly string[];
      examples: readonly (UnitText & { readonly label: string; readonly region?: string })[];
      /** Each example stands beside this many variants of its text and counts with them as one example. */
      augment?: number;
      /** A head released before on features of this very base and layer: the labels that it knows go on from it. */
      before?: { readonly file: string; readonly labels: readonly string[] };
      /** On recall and gaps of this task; the noise must have a share for counts. */
      constraints?: readonly CountedConstraint[];
      noise: NoiseInput;
      maxSeconds: number;
      out: string;
    };
    result: Omit<TrainingResult, 'tokensPerSecond' | 'check'> & {
      /** Label and its probability for the first public sentences, of the head in memory. */
      readonly check: readonly Classification[];
    };
  };
  /** On documents: a histogram's bias, steps of one method, or the one and then the other. */
  'train-documents': { input: DocumentsInput; result: DocumentsTrained };
  /** On what people said: corrections, preferences, ratings, labels. */
  'train-feedback': { input: FeedbackInput; result: FeedbackTrained };
  /** Values of constraints that need public text alone, in the order given; the same weights as `base` have a KL of 0. */
  'measure-constraints': {
    input: { files: ModelFiles; base: string; constraints: readonly ConstraintSpec[]; threads: number };
    result: readonly (number | null)[];
  };
  /** Works the adapter into the weights. */
  merge: {
    input: { files: Pick<ModelFiles, 'model' | 'adapter'>; out: string };
    result: ModelResult;
  };
  prune: {
    input: {
      files: Pick<ModelFiles, 'model' | 'adapter'>;
      ffn?: number;
      dropLayers?: number;
      /** How neurons and layers are chosen (compress/by-text.ts); default: flap, block influence. */
      method?: WidthMethod;
      layersBy?: LayerMethod;
      uneven?: boolean;
      seed?: string;
      calibration: readonly string[];
      /** What `calibrate` released of private text: used instead of it. */
      statistics?: string;
      threads: number;
      out: string;
    };
    result: ModelResult & { readonly keptLayers: readonly number[] };
  };
  /** Statistics of private text for a pruning of this very model, released under noise: one step over all units. */
  calibrate: {
    input: {
      files: Pick<ModelFiles, 'model' | 'adapter'>;
      documents: readonly UnitText[];
      ffn?: number;
      dropLayers?: number;
      noise: NoiseInput;
      threads: number;
      out: string;
    };
    /** `units` as the noised release counts them; `kept`: share of the differences from public text that stood out of the noise. */
    result: { readonly file: WrittenBlob; readonly units: number; readonly kept: number; readonly seconds: number };
  };
  /** Trains a model towards another on public text. */
  distill: {
    input: DistillInput;
    /** Mean loss of the first and of the last steps: of public text, nats a token. */
    result: ModelResult & {
      readonly steps: number;
      readonly seconds: number;
      readonly tokens: number;
      readonly first: number;
      readonly last: number;
    };
  };
  /** Makes and trains a small model from nothing: `base: scratch`. */
  'pretrain-scratch': {
    input: { threads: number; maxSeconds?: number; out: string };
    result: { readonly file: WrittenBlob };
  };
  quantize: {
    input: { model: string; type: string; out: string };
    result: ModelResult;
  };
}

export interface DistillInput {
  readonly teacher: ModelFiles;
  /** Without an adapter: that must have been merged. */
  readonly student: Pick<ModelFiles, 'model' | 'logitBias'>;
  /** Public, a document each. */
  readonly texts: readonly string[];
  /** Tokens in a sequence (default 128) and sequences in a step (default 8). */
  readonly sequence?: number;
  readonly batch?: number;
  /** Default three passes, at least 60. */
  readonly steps?: number;
  readonly rate?: number;
  /** Of teacher and student (default 1), tokens of the teacher kept (default 64), share of the labels' own loss (default 0). */
  readonly temperature?: number;
  readonly topK?: number;
  readonly labels?: number;
  /** The student writes this share of the batches; divergence by beta (GKD). */
  readonly onPolicy?: { readonly share: number; readonly beta: number; readonly tokens?: number };
  readonly maxSeconds?: number;
  readonly threads: number;
  readonly out: string;
}

export interface WrittenBlob {
  readonly path: string;
  readonly sha256: string;
  readonly bytes: number;
}

/** Sampling, clipping, noise and cost of a private training (privacy/plan.ts), as plain data. */
export interface NoiseInput {
  readonly noiseMultiplier: number;
  readonly sampleRate: number;
  readonly steps: number;
  readonly clip: Clip;
  readonly expectedUnits: number;
  readonly delta: number;
  /** Of a step's privacy, for counts of right answers by group (constraints on recall and gaps). */
  readonly countShare?: number;
  /** 64 hex digits. */
  readonly seed: string;
}

export interface UnitText {
  readonly unit: string;
  readonly text: string;
}

/** What a head's training answers. Figures that are not covered by the noise (losses, norms) never leave the worker. */
export interface TrainingResult {
  readonly file: WrittenBlob;
  /** Steps taken, each of them released in the weights. */
  readonly steps: number;
  readonly outOfTime: boolean;
  readonly seconds: number;
  readonly tokensPerSecond: number;
  /** L2 norm of the difference between the weights before and after: above 0. */
  readonly change: number;
  /** Nats a token on the first public sentences, of the weights in memory: what the file must give again. */
  readonly check: number;
}

export interface DocumentsInput {
  readonly files: ModelFiles;
  readonly documents: readonly UnitText[];
  /** A histogram first (or alone), with this noise; `none`: without noise. */
  readonly histogram?: NoiseInput | 'none';
  /** Then steps of this method, with this noise; `none`: without noise. An adapter under `full` must have been merged. */
  readonly steps?: { readonly method: StepMethod; readonly noise: NoiseInput | 'none' };
  /** The steps learn to fill gaps, too. */
  readonly gaps?: Gaps;
  /** The steps see each document beside this many variants of it, which count with it as one. Not with gaps. */
  readonly augment?: number;
  /** For the steps. */
  readonly against?: Against;
  /** Longest piece of a document, tokens, and most pieces of one unit. */
  readonly sequence: number;
  readonly perUnit: number;
  readonly maxSeconds: number;
  readonly threads: number;
  /** Folder for what is written. */
  readonly folder: string;
  /** Where the state of the steps is kept between attempts: a training that was killed goes on from there, with the same release. */
  readonly checkpoint?: { readonly path: string; readonly everySteps?: number };
}

/** Constraints, and what is done against forgetting. */
export interface Against {
  /** Weights of the deployment's base: what a KL is measured from. */
  readonly base: string;
  readonly constraints: readonly ConstraintSpec[];
  /** Share of a step that replays public text, and weight of the KL to the base on it. */
  readonly replay: number;
  readonly kl: number;
  /** Decay of an average of the iterates. */
  readonly ema?: number;
  /** Of sources declared public; a built-in collection where there is none. */
  readonly publicTexts: readonly string[];
}

export interface FeedbackInput {
  readonly files: ModelFiles;
  readonly rows: readonly FeedbackRow[];
  readonly objective: FeedbackObjective;
  readonly method: StepMethod;
  readonly noise: NoiseInput;
  readonly against: Against;
  /** Each row beside this many variants of what was asked, which count with it as one. Not for preferences. */
  readonly augment?: number;
  /** Longest prompt and answer together, tokens. */
  readonly sequence: number;
  readonly maxSeconds: number;
  readonly threads: number;
  readonly folder: string;
  readonly checkpoint?: DocumentsInput['checkpoint'];
}

/** As for documents, without a bias. */
export type FeedbackTrained = Omit<DocumentsTrained, 'bias' | 'nothing'>;

export type StepMethod =
  /** Of the last so many blocks. */
  | { readonly kind: 'norms'; readonly layers: number }
  /** Of the last so many blocks; without `layers` of all. The file holds the adapter given, if any, and the new one, stacked. */
  | { readonly kind: 'lora'; readonly rank: number; readonly layers?: number }
  | { readonly kind: 'full' };

/** What was not made is absent: it is as it was before. */
export interface DocumentsTrained {
  /** JSON [[token id, bias], …]: the whole bias of the model from now on. */
  readonly bias?: { readonly file: WrittenBlob; readonly tokens: number };
  readonly adapter?: { readonly file: WrittenBlob; readonly rank: number };
  readonly model?: ModelResult;
  /** Steps taken, each of them released in the weights. */
  readonly steps: number;
  /** Too little stood out of the histogram's noise: why nothing is to be published. The histogram counts as released. */
  readonly nothing?: string;
  readonly notes: readonly string[];
  readonly outOfTime: boolean;
  readonly seconds: number;
  readonly tokensPerSecond: number;
  /** L2 norm of the difference between weights before and after: above 0 where steps were taken. */
  readonly change: number;
  /** Nats a token on the first public sentences, of the model in memory with its bias: what the files must give again. */
  readonly check: number;
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
