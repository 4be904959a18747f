import { createHash, randomBytes } from 'node:crypto';
import { invalid, LearndError } from '../base/errors.ts';
import type { Queryable } from './database.ts';

/** API keys; only the hash of a token is kept. Tokens carry 256 random bits, so a plain hash is enough. */
export type Scope = 'respond' | 'feedback' | 'admin';
export const SCOPES: readonly Scope[] = ['respond', 'feedback', 'admin'];

export interface Key {
  readonly hash: string;
  readonly name: string;
  readonly scopes: readonly Scope[];
  readonly created_at: Date;
  readonly revoked_at: Date | null;
}

/** Lower-case hex sha256 of a bearer token. */
export const hashKey = (token: string): string => createHash('sha256').update(token).digest('hex');

/** A new key; its token is returned here and never again. `token`: one made elsewhere (32 characters or more). */
export async function createKey(
  db: Queryable,
  key: { name: string; scopes: readonly Scope[]; token?: string },
): Promise<{ token: string; hash: string }> {
  if (key.name === '') throw invalid('name', 'a key needs a name');
  if (key.scopes.length === 0) throw invalid('scopes', `a key needs a scope: ${SCOPES.join(', ')}`);
  for (const scope of key.scopes)
    if (!SCOPES.includes(scope)) throw invalid('scopes', `unknown scope "${scope}"; there are ${SCOPES.join(', ')}`);
  if (key.token !== undefined && key.token.length < 32) throw invalid('token', 'a token has 32 characters or more');
  const token = key.token ?? `learnd_${randomBytes(32).toString('base64url')}`;
  const hash = hashKey(token);
  await db.query(
    `insert into keys (hash, name, scopes) values ($1, $2, $3)
     on conflict (hash) do update set name = excluded.name, scopes = excluded.scopes, revoked_at = null`,
    [hash, key.name, [...key.scopes]],
  );
  return { token, hash };
}

/** The key with that hash, unless it was revoked. */
export async function findKey(db: Queryable, hash: string): Promise<Key | undefined> {
  const { rows } = await db.query<Key>('select * from keys where hash = $1 and revoked_at is null', [hash]);
  return rows[0];
}

/** Oldest first, revoked ones too. */
export async function listKeys(db: Queryable): Promise<Key[]> {
  return (await db.query<Key>('select * from keys order by created_at, hash')).rows;
}

/** @throws LearndError('not_found') when no key with that hash is in force. */
export async function revokeKey(db: Queryable, hash: string): Promise<void> {
  const { rowCount } = await db.query('update keys set revoked_at = now() where hash = $1 and revoked_at is null', [
    hash,
  ]);
  if (rowCount === 0) throw new LearndError('not_found', `no key ${hash.slice(0, 12)}… is in force`);
}
