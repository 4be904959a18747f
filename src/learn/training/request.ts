/** What a training is asked, and what it tells. */
import type { EngineAdapter, EngineModel } from '../model/engine/model.ts';
import type { Example, HiddenCache, PassOptions } from '../model/engine/units.ts';
import type { HostTensor, LoraAdapter } from '../model/types.ts';
import type { DpPlan } from '../privacy/index.ts';
import type { Beside } from './beside.ts';
import type { CheckpointSettings } from './checkpoint.ts';
import type { Objective } from './objectives/objective.ts';
import type { OptimizerSettings, Schedule } from './optimizer.ts';
import type { Method } from './trainables.ts';

export interface TrainRequest {
  readonly model: EngineModel;
  readonly method: Method;
  /** Each privacy unit's examples (`unitExamples`, `instructExample`). Without a plan the units do not matter. */
  readonly units: readonly (readonly Example[])[];
  /** A loss over several sequences at once (`feedbackUnits`); default: the mean loss of each example's scored tokens. */
  readonly objective?: Objective;
  /** Another loss than the labels' cross-entropy (distillation), by name for the fingerprint of a checkpoint. Without a plan. */
  readonly head?: { readonly name: string; readonly pass: NonNullable<PassOptions['head']> };
  /** What is trained on in place of the examples drawn: sequences that the model itself has just written. Without a plan. */
  readonly rewrite?: (drawn: readonly Example[], step: number) => Promise<Example[]>;
  /** Public terms beside the data's own gradient: replay, KL to the base, constraints. The caller disposes it. */
  readonly beside?: Beside;
  /** With a plan: private, its steps, samples, clipping and noise. Without: `steps` minibatches of `batch` examples. */
  readonly plan?: DpPlan;
  readonly steps?: number;
  readonly batch?: number;
  /** Default `defaultOptimizer`. */
  readonly optimizer?: OptimizerSettings;
  readonly schedule?: { readonly kind: Schedule; readonly warmup?: number; readonly floor?: number };
  /** Padded tokens a microbatch: bounds memory. Default 1024. */
  readonly maxTokens?: number;
  /** For a start that can be repeated (adapter's A, order of minibatches); default from the system's generator. */
  readonly seed?: Uint8Array;
  /** An adapter that is part of the forward pass and stays as it is (for `norms`). */
  readonly adapter?: EngineAdapter;
  /** [vocabSize], added to the logits in training as it will be in serving (a vocabulary bias); not trained. */
  readonly tokenBias?: Float32Array;
  /** Memory for the frozen lower blocks' outputs, computed once an example. Default 1 GiB. */
  readonly cacheBytes?: number;
  /** A cache of the same examples that an earlier pass has filled (`documents.ts`); default: one of its own. */
  readonly cache?: HiddenCache;
  /** Training ends after the step in which this many seconds have passed. */
  readonly maxSeconds?: number;
  readonly signal?: AbortSignal;
  /** Decay of an exponential average of iterates, which is then what is returned (free under privacy). Default: the last iterate. */
  readonly ema?: number;
  /** State saved between steps, and when the signal stops the training. Needs `seed`, which a plan's must be, too. */
  readonly checkpoint?: CheckpointSettings;
  /**
   * Go on from the checkpoint where there is one. Replayed steps are the same release. 'same': one of another training (a row has
   * been erased since) is removed, and the training begins anew; else that is an error.
   */
  readonly resume?: boolean | 'same';
}

/** After each step. The loss is of the step's own data before its update; in private training it is NOT covered by the noise. */
export interface TrainProgress {
  readonly step: number;
  readonly steps: number;
  /** Mean nats a scored token; undefined when the step drew nothing. */
  readonly loss: number | undefined;
  /** Units (private) or examples of the step. */
  readonly drawn: number;
  readonly tokens: number;
  readonly secondsElapsed: number;
  /** Scored and unscored tokens a second in this step. */
  readonly tokensPerSecond: number;
}

export interface TrainResult {
  /** For `lora`. */
  readonly adapter?: LoraAdapter;
  /** For `norms` and `full`: the trained weights by name. The model given has been changed, too. */
  readonly weights?: Map<string, HostTensor>;
  readonly steps: number;
  readonly losses: readonly (number | undefined)[];
  /** In steps: without what the caller did between them, or saving. */
  readonly seconds: number;
  readonly tokensPerSecond: number;
  /** L2 norm of the last update: above 0, or the training fails. */
  readonly lastChange: number;
  readonly outOfTime: boolean;
}
