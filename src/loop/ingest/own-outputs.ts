import type { Queryable } from '../../store/database.ts';
import { exactOwnOutputs, recentOutputs } from '../../store/documents.ts';
import { OwnOutputs } from '../curate/provenance.ts';

/** The latest answers are compared by similarity, all of them by equality. */
const LATEST = 1000;
/** An answer is dated by its beginning: one that took long is stored this far behind the newest at most. */
const OVERLAP_MS = 300_000;

/** Sketches of the latest answers, for each database one; kept between batches, since making them is the cost. */
const known = new WeakMap<object, { outputs: OwnOutputs; since: Date }>();

/**
 * A test for texts that the model itself wrote.
 * @param owner the database, whatever transaction `db` is
 */
export async function ownOutputTest(
  owner: object,
  db: Queryable,
  texts: readonly string[],
): Promise<(text: string, sketch: Uint32Array) => boolean> {
  if (texts.length === 0) return () => false;
  const state = known.get(owner) ?? { outputs: new OwnOutputs(LATEST), since: new Date(0) };
  known.set(owner, state);
  const latest = await recentOutputs(db, state.since, LATEST);
  for (const { response_id, output } of latest) state.outputs.add(response_id, output);
  const newest = latest.at(-1);
  if (newest) state.since = new Date(newest.created_at.getTime() - OVERLAP_MS);
  const exact = await exactOwnOutputs(db, texts);
  return (text, values) => exact.has(text) || state.outputs.resembles(values);
}
