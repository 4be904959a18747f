import type { Log } from '../../base/log.ts';
import type { Settings } from '../../base/settings.ts';
import type { Gate } from '../../events/signals.ts';
import type { VersionFiles, VersionManifest } from '../../learn/model/version.ts';
import type { ComputeWorker } from '../../learn/worker/client.ts';
import type { Artifacts } from '../../store/artifacts.ts';
import type { Database, Queryable } from '../../store/database.ts';
import type { VersionRow } from '../../store/versions.ts';

/** The compute worker as rounds use it. */
export type Compute = Pick<ComputeWorker, 'call' | 'perplexity' | 'classify' | 'close' | 'threads'>;

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
