import { LearndError } from '../../base/errors.ts';
import type { Database, Queryable } from '../../store/database.ts';
import { appendEvent } from '../../store/outbox.ts';
import {
  type AliasChange,
  aliasHistory,
  aliasVersion,
  getVersion,
  setAlias,
  type VersionRow,
} from '../../store/versions.ts';
import { versionName } from './versions.ts';

export interface Promotion {
  readonly alias: 'champion';
  readonly version: VersionRow;
  readonly previous: VersionRow | undefined;
}

/**
 * Makes a version the champion, in the caller's transaction (the round's last step); serving follows the alias.
 * Promoting the champion again changes nothing.
 * @param fence the leader's token; undefined: a person asked.
 * @throws LearndError('not_found'), LearndError('conflict') for a rejected or retired version or an older fence.
 */
export async function promoteIn(
  tx: Queryable,
  options: { version: number; reason: string; fence?: number | undefined; kind?: AliasChange['kind'] },
): Promise<Promotion> {
  const version = await getVersion(tx, options.version);
  if (version.state !== 'ready')
    throw new LearndError('conflict', `${versionName(version)} was ${version.state} and cannot be promoted`, {
      hint:
        version.state === 'rejected'
          ? 'Its verdict is in learnd rounds; a changed gate applies to new rounds'
          : undefined,
      retriable: false,
    });
  const current = await aliasVersion(tx, 'champion');
  if (current?.n === version.n) return { alias: 'champion', version, previous: current };
  const kind = options.kind ?? 'promote';
  const before = await setAlias(tx, { alias: 'champion', kind, ...pick(options) });
  const previous = before === undefined ? undefined : await getVersion(tx, before);
  await appendEvent(tx, kind === 'promote' ? 'learnd.version.promoted' : 'learnd.version.rolled-back', {
    version: versionName(version),
    previous: previous ? versionName(previous) : null,
    reason: options.reason,
  });
  return { alias: 'champion', version, previous };
}

const pick = ({ version, reason, fence }: { version: number; reason: string; fence?: number | undefined }) => ({
  version,
  reason,
  fence,
});

/** `promoteIn` in a transaction of its own. */
export const promote = (
  db: Database,
  options: { version: number; reason: string; fence?: number | undefined },
): Promise<Promotion> => db.tx(tx => promoteIn(tx, options));

/**
 * Champions that were put aside, newest last, the present one at the end: a promotion puts one on top, a rollback takes off what
 * lies above its target. So rolling back twice goes two champions back, not to and fro.
 */
export function championStack(history: ReadonlyArray<Pick<AliasChange, 'version' | 'kind'>>): number[] {
  const stack: number[] = [];
  for (const { version, kind } of history) {
    const below = kind === 'rollback' ? stack.lastIndexOf(version) : -1;
    if (below >= 0) stack.length = below + 1;
    else stack.push(version);
  }
  return stack;
}

/**
 * Goes back to the champion before this one, or to `version`.
 * @throws LearndError('conflict') when there was none before.
 */
export const rollback = (
  db: Database,
  options: { version?: number | undefined; reason?: string; fence?: number | undefined } = {},
): Promise<Promotion> => db.tx(tx => rollbackIn(tx, options));

export async function rollbackIn(
  tx: Queryable,
  options: { version?: number | undefined; reason?: string; fence?: number | undefined } = {},
): Promise<Promotion> {
  const champion = await aliasVersion(tx, 'champion');
  if (!champion) throw new LearndError('conflict', 'there is no champion to roll back', { retriable: false });
  let target = options.version;
  if (target === undefined) {
    const earlier = championStack(await aliasHistory(tx, 'champion'))
      .slice(0, -1)
      .reverse();
    for (const n of earlier) {
      if (n === champion.n || (await getVersion(tx, n)).state !== 'ready') continue;
      target = n;
      break;
    }
  }
  if (target === undefined)
    throw new LearndError('conflict', `${versionName(champion)} is the first champion: there is none to go back to`, {
      retriable: false,
    });
  const reason = options.reason ?? `rolled back from ${versionName(champion)}`;
  return promoteIn(tx, { version: target, reason, fence: options.fence, kind: 'rollback' });
}
