import { randomBytes } from 'node:crypto';
import { LearndError } from '../base/errors.ts';
import { json, type Queryable } from './database.ts';

/** Facts about the deployment itself, by key; values are JSON. */

export async function getFact<T>(db: Queryable, key: string): Promise<T | undefined> {
  const { rows } = await db.query<{ value: T }>('select value from facts where key = $1', [key]);
  return rows[0]?.value;
}

export async function setFact(db: Queryable, key: string, value: unknown): Promise<void> {
  await db.query(
    `insert into facts (key, value) values ($1, $2)
     on conflict (key) do update set value = excluded.value, updated_at = now()`,
    [key, json(value)],
  );
}

/** The fact, made by `make` if there is none yet; of several who make it at once, all get the same one. */
export async function factOnce<T>(db: Queryable, key: string, make: () => T): Promise<T> {
  const known = await getFact<T>(db, key);
  if (known !== undefined) return known;
  await db.query('insert into facts (key, value) values ($1, $2) on conflict (key) do nothing', [key, json(make())]);
  return (await getFact<T>(db, key))!;
}

/**
 * 32 random bytes made once in a deployment's life: the key of the train/holdout split and of the hashes of erased users. It must
 * never change: a user would cross from one side of the split to the other.
 */
export async function deploymentSecret(db: Queryable): Promise<Buffer> {
  const hex = await factOnce(db, 'secret', () => randomBytes(32).toString('hex'));
  if (typeof hex !== 'string' || !/^[0-9a-f]{64}$/.test(hex))
    throw new LearndError('corrupt', 'the fact "secret" is not 32 bytes in hex', { hint: 'Restore it from a backup' });
  return Buffer.from(hex, 'hex');
}
