import { oneLine } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import { type Loop, startLoop } from '../base/loop.ts';
import type { VersionFiles } from '../learn/model/version.ts';
import { versionName } from '../loop/registry/index.ts';
import type { Database } from '../store/database.ts';
import { aliasVersion, type VersionRow } from '../store/versions.ts';

/** What has to be moved when the champion changes: the serving role's version table. */
export interface ChampionTarget {
  readonly champion: string | undefined;
  set(files: VersionFiles): Promise<unknown>;
}

/**
 * Keeps what is served in step with the alias row `champion`: at once on a notification, every second besides. A version that cannot be
 * loaded is tried again with growing pauses, and the one before goes on answering.
 */
export function followChampion(options: {
  db: Database;
  open: (row: VersionRow) => Promise<VersionFiles>;
  target: ChampionTarget;
  log: Log;
  everyMs?: number;
}): Loop & { first: Promise<void> } {
  const { db, target, log } = options;
  let failed: { version: string; times: number; until: number } | undefined;
  let arrived: () => void;
  const first = new Promise<void>(resolve => {
    arrived = resolve;
  });
  const loop = startLoop({
    name: 'champion',
    everyMs: options.everyMs ?? 1000,
    onError: error => log.warn('cannot follow the champion', { reason: oneLine(error) }),
    async turn() {
      const row = await aliasVersion(db, 'champion');
      if (row === undefined) return;
      const version = versionName(row);
      if (target.champion === version) {
        arrived();
        return;
      }
      if (failed?.version === version && Date.now() < failed.until) return;
      try {
        await target.set(await options.open(row));
        failed = undefined;
        arrived();
      } catch (error) {
        const times = failed?.version === version ? failed.times + 1 : 1;
        failed = { version, times, until: Date.now() + Math.min(60_000, 1000 * 2 ** times) };
        log.error('the champion cannot be loaded; the version before goes on answering', {
          version,
          serving: target.champion ?? 'none',
          reason: oneLine(error),
        });
      }
    },
  });
  return { ...loop, first };
}
