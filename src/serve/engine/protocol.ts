/** What the daemon and the engine process say to each other. Plain data only: it crosses an IPC channel (structured clone). */
import type { WireError } from '../../base/wire-error.ts';
import type { VersionFiles } from '../../learn/model/version.ts';

export type { VersionFiles };

export interface EngineMessage {
  readonly role: 'system' | 'user' | 'assistant';
  readonly content: string;
}

export interface GenerateRequest {
  readonly version: string;
  readonly messages: readonly EngineMessage[];
  /** At most this many tokens; less when the context ends first. */
  readonly maxTokens: number;
  /** 0 is greedy. */
  readonly temperature: number;
  readonly topP: number;
  readonly seed?: number;
  /** Generation ends before any of these. */
  readonly stop: readonly string[];
  /** Drop the oldest turns when the prompt does not fit, instead of refusing. */
  readonly truncate: boolean;
  readonly logitBias?: ReadonlyArray<readonly [number, number]>;
}

export type FinishReason = 'stop' | 'length' | 'cancelled';

export interface GenerateResult {
  readonly version: string;
  readonly reason: FinishReason;
  readonly inputTokens: number;
  /** Of the input, how many were in this version's own cache already. */
  readonly cachedTokens: number;
  readonly outputTokens: number;
}

export interface ClassifyRequest {
  readonly version: string;
  readonly task: string;
  readonly texts: readonly string[];
  /** In the order to answer in. */
  readonly labels: readonly string[];
  /** They are the task's declared ones: the version's head answers even if some were declared after it learned. Else it must know all. */
  readonly declared: boolean;
}

export interface ClassifyResult {
  readonly version: string;
  readonly by: 'head' | 'language_model';
  readonly labels: readonly string[];
  /** [texts][labels]; each row sums to 1. */
  readonly probabilities: ReadonlyArray<Float32Array>;
}

export interface LoadResult {
  readonly version: string;
  readonly contextLength: number;
  readonly milliseconds: number;
  /** Text of the tiny generation that proved the version can answer. */
  readonly probe: string;
}

export interface EngineHealth {
  readonly versions: readonly string[];
  readonly rssMb: number;
  readonly active: number;
}

export interface EngineOptions {
  /** Threads of one context. 2 in one context were slower than 1, with collapses (2 cores). */
  readonly threads: number;
  /** Answers generated at once by one version. */
  readonly sequences: number;
  /** Tokens of one sequence, prompt and answer together; the model's own context when that is less. */
  readonly contextSize: number;
}

export const DEFAULT_ENGINE_OPTIONS: EngineOptions = { threads: 1, sequences: 4, contextSize: 2048 };

/** Requests and what each resolves to. */
export interface EngineCalls {
  load: { request: VersionFiles; result: LoadResult };
  unload: { request: { version: string }; result: null };
  generate: { request: GenerateRequest; result: GenerateResult };
  classify: { request: ClassifyRequest; result: ClassifyResult };
  features: { request: { file: string; texts: readonly string[] }; result: readonly Float32Array[] };
  health: { request: null; result: EngineHealth };
}

export type EngineMethod = keyof EngineCalls;

export type ToEngine =
  | { readonly id: number; readonly method: EngineMethod; readonly request: unknown }
  | { readonly cancel: number };

export type FromEngine =
  | { readonly ready: true }
  /** The first delta of an answer is empty: the request has been found sound and will be answered. */
  | { readonly id: number; readonly delta: string }
  | { readonly id: number; readonly result: unknown }
  | { readonly id: number; readonly error: WireError };
