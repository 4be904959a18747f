import { createHmac } from 'node:crypto';
import type { ErasureReceipt, VersionInReceipt } from '../../events/out.ts';
import { type Database, notify, type Queryable } from '../../store/database.ts';
import {
  erasedAmong,
  receiptOf,
  removeRows,
  runningRoundWith,
  saveReceipt,
  type TouchedVersion,
  touchedVersions,
} from '../../store/erasures.ts';
import { ingestLock } from '../../store/events.ts';

/** A user is remembered as erased by this keyed hash only. */
export const userHash = (secret: Uint8Array, user: string): Buffer =>
  createHmac('sha256', secret).update(`erased:${user}`).digest();

const NOTE =
  "Covers learnd's own tables. Messages in the broker's topics go with the topics' retention; the user's later events are refused.";

function guarantee(version: TouchedVersion): string {
  if (version.inherits)
    return 'built on a version trained with rows of the user; the guarantee of that version holds for this one';
  if (!version.trained) return 'evaluated with rows of the user, never trained on them';
  if (version.declared) return 'trained without noise on sources declared public: no guarantee for this user';
  return `user-level differential privacy of its round: epsilon ${version.epsilon}, delta ${version.delta ?? 'unknown'}`;
}

const inReceipt = (version: TouchedVersion): VersionInReceipt => ({
  version: version.name.includes('@') ? version.name : `${version.name}@${version.n}`,
  round: version.round,
  role: version.inherits ? 'inherits' : version.trained ? 'trained' : 'evaluated',
  epsilon: version.declared ? null : version.epsilon,
  delta: version.delta,
  guarantee: guarantee(version),
});

/**
 * Erases within a transaction that holds the ingest lock alone. What an earlier erasure of the same user removed and named is
 * added up in the receipt, so that asking again loses nothing.
 */
export async function eraseUser(
  db: Queryable,
  secret: Uint8Array,
  user: string,
  now = new Date(),
): Promise<ErasureReceipt> {
  const hash = userHash(secret, user);
  const before = await receiptOf(db, hash);
  const versions = new Map(before?.versions.map(version => [version.version, version]));
  for (const version of await touchedVersions(db, user)) {
    const named = inReceipt(version);
    versions.set(named.version, named);
  }
  const running = await runningRoundWith(db, user);
  const rows = await removeRows(db, user);
  const receipt: ErasureReceipt = {
    user_hash: hash.toString('hex'),
    erased_at: before?.erased_at ?? now.toISOString(),
    rows: {
      feedback: rows.feedback + (before?.rows.feedback ?? 0),
      documents: rows.documents + (before?.rows.documents ?? 0),
      exchanges: rows.exchanges + (before?.rows.exchanges ?? 0),
      dead_letters: rows.dead_letters + (before?.rows.dead_letters ?? 0),
    },
    versions: [...versions.values()],
    running_round: running ?? before?.running_round ?? null,
    note: NOTE,
  };
  await saveReceipt(db, hash, receipt);
  return receipt;
}

/** Removes all rows of a user, durably, and refuses the user's events from now on. Idempotent: the receipt stays complete. */
export async function erase(
  db: Database,
  input: { user: string; secret: Uint8Array; now?: Date },
): Promise<ErasureReceipt> {
  return db.tx(async tx => {
    await ingestLock(tx, 'exclusive');
    const receipt = await eraseUser(tx, input.secret, input.user, input.now);
    await notify(tx, 'events');
    return receipt;
  });
}

/**
 * Stores something of a user's, such as an exchange, unless the user was erased; an erasure at the same time waits for it or is
 * waited for. Returns whether it was stored.
 */
export async function unlessErased(
  db: Database,
  secret: Uint8Array,
  user: string | undefined,
  save: (tx: Queryable) => Promise<void>,
): Promise<boolean> {
  return db.tx(async tx => {
    await ingestLock(tx, 'shared');
    if (user !== undefined && (await erasedAmong(tx, [userHash(secret, user)])).size > 0) return false;
    await save(tx);
    return true;
  });
}
