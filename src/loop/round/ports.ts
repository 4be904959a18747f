import type { Log } from '../../base/log.ts';
import type { Settings } from '../../base/settings.ts';
import type { Seed } from '../../events/holdout.ts';
import type { Gate } from '../../events/signals.ts';
import type { Card, Subject, VersionFiles, VersionManifest } from '../../learn/model/version.ts';
import type { ComputeWorker } from '../../learn/worker/client.ts';
import type { CallOptions } from '../../learn/worker/process.ts';
import type { Artifacts } from '../../store/artifacts.ts';
import type { Database, Queryable } from '../../store/database.ts';
import type { VersionRow } from '../../store/versions.ts';

/** The compute worker as rounds use it. */
export type Compute = Pick<ComputeWorker, 'call' | 'perplexity' | 'classify' | 'close' | 'threads'>;

/** A version's card with what lies behind it, as the stage `evaluate` measures it. */
export interface Measured {
  readonly card: Card;
  readonly items: {
    readonly documents: ReadonlyArray<{ readonly nll: number; readonly tokens: number }>;
    readonly labels: ReadonlyArray<{
      readonly id: number;
      readonly task: string;
      readonly truth: string;
      readonly predicted: string;
    }>;
  };
}

/** What the cycle gives a round: the stages never import each other. */
export interface RoundPorts {
  readonly db: Database;
  readonly settings: Settings;
  readonly log: Log;
  readonly artifacts: Artifacts;
  /** Fencing token of this leader. */
  readonly fence: number;
  /** A fresh worker; the round closes it. */
  readonly openWorker: () => Compute;
  /** Of the policy in force. `windowMs`: what may be newly spent within it. */
  readonly budget: () => { readonly epsilon: number; readonly delta: number; readonly windowMs?: number | null };
  /** Of the policy in force. */
  readonly gate: Gate;
  /** The stage `evaluate`. */
  readonly evaluate: (input: {
    db: Queryable;
    round: number;
    tasks: Settings['tasks'];
    worker: Compute;
    champion: Subject;
    candidate: Subject | undefined;
    call: CallOptions;
  }) => Promise<{ champion: Measured; candidate: Measured | undefined }>;
  /** What a new champion is expected to do, told to the monitor in the transaction of its promotion. */
  readonly seedMonitor: (tx: Queryable, version: number, seed: Seed) => Promise<void>;
  readonly registry: {
    createVersion(
      tx: Queryable,
      artifacts: Artifacts,
      version: {
        name: string;
        manifest: VersionManifest;
        parent: number | null;
        round: number | null;
        epsilon: number;
        evaluation: unknown;
        state?: 'ready' | 'rejected';
      },
    ): Promise<VersionRow>;
    promoteIn(
      tx: Queryable,
      options: { version: number; reason: string; fence?: number | undefined },
    ): Promise<unknown>;
    rollbackIn(
      tx: Queryable,
      options: { reason?: string; fence?: number | undefined },
    ): Promise<{ version: VersionRow }>;
    openVersion(row: VersionRow, artifacts: Artifacts): Promise<VersionFiles>;
  };
}
