import { readFile } from 'node:fs/promises';
import { LearndError } from '../../base/errors.ts';
import type { VersionFiles, VersionManifest } from '../../learn/model/version.ts';
import type { Artifacts } from '../../store/artifacts.ts';
import type { Queryable } from '../../store/database.ts';
import { appendEvent } from '../../store/outbox.ts';
import { type Alias, aliasVersion, getVersion, insertVersion, type VersionRow } from '../../store/versions.ts';
import { blobsOf, manifestHash } from './manifest.ts';

export const versionName = (row: Pick<VersionRow, 'name' | 'n'>): string => `${row.name}@${row.n}`;

export interface NewVersion {
  /** The model's name (settings `name`). */
  readonly name: string;
  readonly manifest: VersionManifest;
  /** null for the base a deployment starts from. */
  readonly parent: number | null;
  readonly round: number | null;
  readonly epsilon: number;
  /** The version's card, or null when it is not measured yet. */
  readonly evaluation: unknown;
  /** A rejected candidate is kept with its figures, and can be neither promoted nor resolved by alias. */
  readonly state?: 'ready' | 'rejected';
}

/**
 * Registers a version whose files are all in the artifacts store, and announces it, in the caller's transaction.
 * @throws LearndError('corrupt') when a file is missing or cut short.
 */
export async function createVersion(tx: Queryable, artifacts: Artifacts, version: NewVersion): Promise<VersionRow> {
  for (const blob of blobsOf(version.manifest)) await artifacts.path(blob);
  const row = await insertVersion(tx, { ...version, sha256: manifestHash(version.manifest) });
  if (row.state === 'ready')
    await appendEvent(tx, 'learnd.version.published', {
      version: versionName(row),
      sha256: row.sha256,
      parent: row.parent === null ? null : `${row.name}@${row.parent}`,
      round: row.round,
    });
  return row;
}

/**
 * A version's files as the engines take them.
 * @throws LearndError('corrupt') when the manifest is not what was registered, or a file is missing or cut short. Contents are not
 * hashed here (a start must not read gigabytes): `verifyVersion` does.
 */
export async function openVersion(row: VersionRow, artifacts: Artifacts): Promise<VersionFiles> {
  const { manifest } = row;
  if (manifestHash(manifest) !== row.sha256)
    throw new LearndError('corrupt', `the manifest of ${versionName(row)} is not the one that was registered`);
  const heads: Record<string, VersionFiles['heads'][string]> = {};
  for (const [task, head] of Object.entries(manifest.heads))
    heads[task] = {
      file: await artifacts.path(head),
      features: await artifacts.path(head.features),
      layer: head.layer,
      labels: head.labels,
    };
  return {
    version: versionName(row),
    sha256: row.sha256,
    model: await artifacts.path(manifest.model),
    ...(manifest.adapter && {
      adapter: { path: await artifacts.path(manifest.adapter), scale: manifest.adapter.scale },
    }),
    ...(manifest.logit_bias && { logitBias: await readLogitBias(await artifacts.path(manifest.logit_bias)) }),
    heads,
    ...(manifest.chat_template !== undefined && { chatTemplate: manifest.chat_template }),
  };
}

async function readLogitBias(file: string): Promise<Array<readonly [number, number]>> {
  let value: unknown;
  try {
    value = JSON.parse(await readFile(file, 'utf8'));
  } catch (cause) {
    throw new LearndError('corrupt', `${file} is not JSON: ${(cause as Error).message}`, { cause });
  }
  const pair = (entry: unknown): entry is [number, number] =>
    Array.isArray(entry) && entry.length === 2 && Number.isInteger(entry[0]) && Number.isFinite(entry[1]);
  if (!Array.isArray(value) || !value.every(pair))
    throw new LearndError('corrupt', `${file} is not a list of [token, bias] pairs`);
  return value;
}

/** Hashes every file of a version. @throws LearndError('corrupt') naming the file. */
export async function verifyVersion(row: VersionRow, artifacts: Artifacts): Promise<void> {
  await openVersion(row, artifacts);
  for (const blob of blobsOf(row.manifest)) await artifacts.verify(blob);
}

/**
 * `name`, `name@N`, `name@champion`, `name@challenger` to a version. A rejected or retired version is found by number only.
 * @throws LearndError('not_found') with what there is.
 */
export async function resolveModelName(
  db: Queryable,
  settings: { readonly name: string },
  model: string,
): Promise<VersionRow> {
  const unknown = (why: string) =>
    new LearndError('not_found', `model "${model}": ${why}`, {
      field: 'model',
      hint: `${settings.name}, ${settings.name}@champion, ${settings.name}@challenger and ${settings.name}@N are known`,
    });
  const at = model.lastIndexOf('@');
  const name = at < 0 ? model : model.slice(0, at);
  const which = at < 0 ? 'champion' : model.slice(at + 1);
  if (name !== settings.name) throw unknown('no such model here');
  if (/^[1-9]\d{0,8}$/.test(which)) {
    try {
      return await getVersion(db, Number(which));
    } catch (thrown) {
      if (thrown instanceof LearndError && thrown.code === 'not_found') throw unknown('no such version');
      throw thrown;
    }
  }
  if (which !== 'champion' && which !== 'challenger') throw unknown('neither a number nor an alias');
  const row = await aliasVersion(db, which satisfies Alias);
  if (!row) throw unknown(`there is no ${which} yet`);
  return row;
}
