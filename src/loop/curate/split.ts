import { createHash, createHmac } from 'node:crypto';

/** Whose data an event is, and which side of the evaluation it stands on. Both are functions of the event alone. */

export type Split = 'train' | 'holdout';

/** The privacy unit: `u:` + user, or `e:` + the row of an event without user. */
export const unitOf = (user: string | undefined, event: number): string =>
  user === undefined ? `e:${event}` : `u:${user}`;

/**
 * What the split is keyed by. A user stands on one side with all that is theirs. Without a user it is the content: the same
 * article or question sent twice must not be trained on and evaluated with.
 */
export const splitKey = (user: string | undefined, content: string): string =>
  user === undefined ? `c:${createHash('sha256').update(content).digest('hex')}` : `u:${user}`;

/** Keyed, so that nobody who does not hold the deployment's secret can choose a pseudonym for a side. `share` in (0, 1). */
export function splitOf(secret: Uint8Array, key: string, share: number): Split {
  const first = createHmac('sha256', secret).update(key).digest().readBigUInt64BE(0);
  return Number(first) / 2 ** 64 < share ? 'holdout' : 'train';
}
