/** The frames between a compute worker and its parent. Plain data (structured clone); big arrays stay in files that both sides name. */
import type { WireError } from '../../base/wire-error.ts';

export type ToWorker =
  | { readonly id: number; readonly job: string; readonly input: unknown }
  /** Ends the job as soon as it looks up; it answers with a `canceled` error, or with its result when it was done first. */
  | { readonly cancel: number };

export type FromWorker =
  | { readonly ready: true; readonly priority: number }
  | { readonly id: number; readonly progress: Progress }
  | { readonly id: number; readonly result: unknown }
  | { readonly id: number; readonly error: WireError };

/** How far a job is. `done` of `total` in the job's own unit (steps, texts, layers). */
export interface Progress {
  readonly stage: string;
  readonly done: number;
  readonly total: number;
  /** Mean training loss of the step, seconds, tokens/s …: numbers for people, not released under privacy. */
  readonly facts?: Readonly<Record<string, number>>;
}
