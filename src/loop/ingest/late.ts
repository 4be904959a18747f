import type { LearndEvent } from '../../events/event.ts';
import { type Database, notify } from '../../store/database.ts';
import { erasedAmong } from '../../store/erasures.ts';
import { ingestLock } from '../../store/events.ts';
import {
  completeFeedback,
  deleteFeedback,
  exchangesFor,
  type LateMatch,
  lateMatches,
  type NewFeedback,
} from '../../store/feedback.ts';
import { draftOf, rowOf } from './draft.ts';
import { userHash } from './erasure.ts';
import { type IngestSettings, rulesOf } from './ingest.ts';
import { judge } from './judge.ts';

/** Feedback can overtake the exchange it is about: the answer is stored when it is complete, its reader may be quicker. */

const given = <T>(value: T | null): T | undefined => value ?? undefined;

/** The event as it came, redacted texts aside: what `draftOf` reads of it. */
const eventOf = (row: LateMatch): LearndEvent =>
  ({
    type: `learnd.feedback.${row.kind}`,
    family: 'feedback',
    source: '',
    id: '',
    time: undefined,
    traceparent: undefined,
    data: {
      response_id: row.response_id,
      user: given(row.user_id),
      task: given(row.task),
      text: given(row.text),
      label: given(row.label),
      prompt: given(row.prompt),
      ideal: given(row.ideal),
      value: given(row.value),
      comment: given(row.comment),
    },
  }) as unknown as LearndEvent;

/** Completes feedback whose exchange has been stored since; returns how many rows. Run it beside the monitor's turns. */
export async function matchLate(
  db: Database,
  settings: IngestSettings,
  secret: Uint8Array,
  limit = 500,
): Promise<number> {
  return db.tx(async tx => {
    await ingestLock(tx, 'shared');
    const rows = await lateMatches(tx, limit);
    if (rows.length === 0) return 0;
    const exchanges = new Map(
      (
        await exchangesFor(
          tx,
          rows.map(row => row.response_id),
        )
      ).map(row => [row.response_id, row]),
    );
    const rules = rulesOf(settings, secret);
    const drafts = rows.map(row => ({ row, draft: draftOf(eventOf(row), exchanges.get(row.response_id), rules) }));
    const hash = (user: string | undefined) => (user === undefined ? undefined : userHash(secret, user));
    const gone = await erasedAmong(
      tx,
      drafts.flatMap(({ draft }) => hash(draft.user) ?? []),
    );
    const erased = drafts.filter(({ draft }) => gone.has(hash(draft.user)?.toString('hex') ?? ''));
    await deleteFeedback(
      tx,
      erased.map(({ row }) => row.id),
    );
    const kept = drafts.filter(one => !erased.includes(one));
    const judged = await judge(
      tx,
      db,
      kept.map(({ row, draft }) => ({ id: row.event, draft })),
    );
    for (const [i, { draft, excluded }] of judged.entries()) {
      const { id, event } = kept[i]!.row;
      await completeFeedback(tx, id, rowOf(draft, event, excluded) as NewFeedback);
    }
    await notify(tx, 'events');
    return kept.length;
  });
}
