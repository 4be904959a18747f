import { LearndError } from '../base/errors.ts';
import type { VersionManifest } from '../learn/model/version.ts';
import { json, notify, type Queryable } from './database.ts';

/** Versions count up from 1 and never change; aliases point at one and remember where they pointed. */
const LOCK = 0x1ea4_0006;

export interface VersionRow {
  readonly n: number;
  readonly name: string;
  /** Over the canonical manifest. */
  readonly sha256: string;
  readonly parent: number | null;
  readonly round: number | null;
  readonly manifest: VersionManifest;
  /** What its own round spent; 0: no private data, or no training. */
  readonly epsilon: number;
  readonly evaluation: unknown;
  readonly state: 'ready' | 'rejected' | 'retired';
  readonly created_at: Date;
}

export type Alias = 'champion' | 'challenger';

export interface AliasChange {
  readonly id: number;
  readonly alias: Alias;
  readonly version: number;
  readonly previous: number | null;
  readonly kind: 'promote' | 'rollback';
  readonly reason: string;
  readonly at: Date;
}

/** Gives the next number; a rolled-back transaction leaves no gap. */
export async function insertVersion(
  tx: Queryable,
  version: Omit<VersionRow, 'n' | 'created_at' | 'state'> & { state?: VersionRow['state'] },
): Promise<VersionRow> {
  await tx.query('select pg_advisory_xact_lock($1)', [LOCK]);
  const { rows } = await tx.query<VersionRow>(
    `insert into versions (n, name, sha256, parent, round, manifest, epsilon, evaluation, state)
     select coalesce(max(n), 0) + 1, $1, $2, $3, $4, $5, $6, $7, $8 from versions
     returning *`,
    [
      version.name,
      version.sha256,
      version.parent,
      version.round,
      json(version.manifest),
      version.epsilon,
      json(version.evaluation),
      version.state ?? 'ready',
    ],
  );
  return rows[0]!;
}

/** @throws LearndError('not_found') */
export async function getVersion(db: Queryable, n: number): Promise<VersionRow> {
  const { rows } = await db.query<VersionRow>('select * from versions where n = $1', [n]);
  if (!rows[0]) throw new LearndError('not_found', `there is no version ${n}`);
  return rows[0];
}

/** Newest first. */
export async function listVersions(db: Queryable, limit = 1_000): Promise<VersionRow[]> {
  return (await db.query<VersionRow>('select * from versions order by n desc limit $1', [limit])).rows;
}

/** The card of a version, measured after it was made (the base of a deployment). */
export async function setEvaluation(db: Queryable, n: number, evaluation: unknown): Promise<void> {
  await db.query('update versions set evaluation = $2 where n = $1', [n, json(evaluation)]);
}

export async function setVersionState(db: Queryable, n: number, state: VersionRow['state']): Promise<void> {
  await db.query('update versions set state = $2 where n = $1', [n, state]);
}

/** The version an alias points at, or undefined. */
export async function aliasVersion(db: Queryable, alias: Alias): Promise<VersionRow | undefined> {
  const { rows } = await db.query<VersionRow>(
    'select v.* from aliases a join versions v on v.n = a.version where a.alias = $1',
    [alias],
  );
  return rows[0];
}

/**
 * Points an alias at a version, remembers it and tells everyone, in the caller's transaction.
 * @param fence the leader's token; refused when a newer leader has written. undefined: a person's wish, which no leader outranks.
 * @returns the version it pointed at before.
 * @throws LearndError('conflict') for an older fence.
 */
export async function setAlias(
  tx: Queryable,
  change: { alias: Alias; version: number; kind?: AliasChange['kind']; reason: string; fence?: number | undefined },
): Promise<number | undefined> {
  const { alias, version, reason, fence } = change;
  // The lock stands in for the row while there is none yet.
  await tx.query('select pg_advisory_xact_lock($1)', [LOCK]);
  const { rows } = await tx.query<{ version: number; fence: number }>(
    'select version, fence from aliases where alias = $1 for update',
    [alias],
  );
  const before = rows[0];
  if (before && fence !== undefined && fence < before.fence)
    throw new LearndError('conflict', `leader ${fence} may not move ${alias}: leader ${before.fence} has taken over`, {
      retriable: false,
    });
  await tx.query(
    `insert into aliases (alias, version, fence) values ($1, $2, $3)
     on conflict (alias) do update set version = excluded.version, fence = excluded.fence, updated_at = now()`,
    [alias, version, fence ?? before?.fence ?? 0],
  );
  await tx.query('insert into alias_history (alias, version, previous, kind, reason) values ($1, $2, $3, $4, $5)', [
    alias,
    version,
    before?.version ?? null,
    change.kind ?? 'promote',
    reason,
  ]);
  await notify(tx, 'alias');
  return before?.version;
}

/** Oldest first. */
export async function aliasHistory(db: Queryable, alias: Alias): Promise<AliasChange[]> {
  return (await db.query<AliasChange>('select * from alias_history where alias = $1 order by id', [alias])).rows;
}
