import { LearndError } from '../../base/errors.ts';
import type { Settings } from '../../base/settings.ts';
import { currentTraceParent } from '../../base/telemetry.ts';
import { type Family, familyOf, type LearndEvent, parseEvent } from '../../events/event.ts';
import { type Database, notify, type Queryable } from '../../store/database.ts';
import { insertDocuments, type NewDocument } from '../../store/documents.ts';
import { erasedAmong } from '../../store/erasures.ts';
import { eventKey, ingestLock, insertEvents, type Origin } from '../../store/events.ts';
import { exchangesFor, insertFeedback, type NewFeedback, type ReferredExchange } from '../../store/feedback.ts';
import { draftOf, type Rules, responseIdOf, rowOf, userOf } from './draft.ts';
import { eraseUser, userHash } from './erasure.ts';
import { judge } from './judge.ts';

/** The one way in: Kafka, HTTP, the socket and the command line all end here. */

export interface Rejection {
  /** Position in the batch as given. */
  readonly index: number;
  /** Dotted path of the field at fault; '' when it is the event as a whole. */
  readonly field: string;
  readonly reason: string;
}

export interface IngestReport {
  readonly accepted: number;
  readonly duplicates: number;
  readonly rejected: readonly Rejection[];
}

export type IngestSettings = Pick<Settings, 'limits' | 'tasks' | 'sources' | 'holdout'>;

export type Kind = 'feedback' | 'documents' | 'erasures';

export interface IngestOptions {
  readonly origin: Origin;
  /** Events of another family are refused: the path or topic they came by is for this one. */
  readonly kind?: Kind | undefined;
}

/** A batch, each event of which is valid or refused with its reason. */
export interface Checked {
  readonly items: readonly Item[];
  readonly rejected: readonly Rejection[];
}

export interface Item {
  readonly index: number;
  readonly event: LearndEvent;
}

/** The reason of a refusal because the user was erased: no dead letter, counted by whoever asks. */
export const ERASED = 'erased';

const FAMILY: Record<Kind, Family> = {
  feedback: 'feedback',
  documents: 'document',
  erasures: 'erasure',
};

export const rulesOf = (settings: IngestSettings, secret: Uint8Array): Rules => ({
  secret,
  holdout: settings.holdout.share,
  tasks: new Map(settings.tasks.map(task => [task.name, new Set(task.labels)])),
  publicSources: new Set(settings.sources.filter(source => source.public).map(source => source.name)),
});

/** @param bytes of each event as it came, where known */
export function check(
  settings: IngestSettings,
  events: readonly unknown[],
  kind: Kind | undefined,
  bytes?: readonly number[],
): Checked {
  const items: Item[] = [];
  const rejected: Rejection[] = [];
  for (const [index, input] of events.entries()) {
    const parsed = parseEvent(input, settings.limits, bytes?.[index]);
    if (!parsed.ok) rejected.push({ index, field: parsed.field, reason: parsed.reason });
    else if (kind !== undefined && familyOf(parsed.event.type) !== FAMILY[kind])
      rejected.push({ index, field: 'type', reason: `${parsed.event.type} does not belong to ${kind}` });
    else items.push({ index, event: parsed.event });
  }
  return { items, rejected };
}

/**
 * Stores a batch: the valid events that are new, in one transaction, durable when it resolves. A rejected event costs the
 * others nothing. Order within the batch counts for erasures: what comes before one is erased, what comes after is refused.
 * @throws LearndError('too_large') for more than limits.batch_events, and what the database throws.
 */
export async function ingest(
  db: Database,
  settings: IngestSettings,
  secret: Uint8Array,
  events: readonly unknown[],
  options: IngestOptions,
): Promise<IngestReport> {
  const most = settings.limits.batch_events;
  if (events.length > most)
    throw new LearndError('too_large', `${events.length} events in one batch, the limit is ${most}`, {
      field: 'events',
      hint: `Send at most ${most} at a time`,
    });
  const checked = check(settings, events, options.kind);
  if (checked.items.length === 0) return { accepted: 0, duplicates: 0, rejected: checked.rejected };
  return store(db, settings, secret, checked, { origin: options.origin });
}

/**
 * Stores a checked batch in one transaction.
 * @param options.within runs in the transaction before the events are stored (Kafka: fence, position, dead letters) and says which to skip
 */
export async function store(
  db: Database,
  settings: IngestSettings,
  secret: Uint8Array,
  checked: Checked,
  options: { origin: Origin; within?: (tx: Queryable) => Promise<(index: number) => boolean> },
): Promise<IngestReport> {
  const rules = rulesOf(settings, secret);
  const stored = await db.tx(async tx => {
    const erases = checked.items.some(({ event }) => event.family === 'erasure');
    await ingestLock(tx, erases ? 'exclusive' : 'shared');
    const skip = (await options.within?.(tx)) ?? (() => false);
    const wanted = checked.items.filter(({ index }) => !skip(index));
    return storeItems(tx, db, options.origin, wanted, rules);
  });
  return {
    accepted: stored.accepted,
    duplicates: stored.duplicates,
    rejected: [...checked.rejected, ...stored.erased].sort((a, b) => a.index - b.index),
  };
}

async function storeItems(tx: Queryable, owner: object, origin: Origin, items: readonly Item[], rules: Rules) {
  const referred = [...new Set(items.flatMap(({ event }) => responseIdOf(event) ?? []))];
  const exchanges = new Map((await exchangesFor(tx, referred)).map(row => [row.response_id, row]));
  const { kept, erased } = await withoutErased(tx, items, exchanges, rules.secret);

  const first = new Map<string, Item>();
  for (const item of kept) {
    const key = eventKey(item.event.source, item.event.id);
    if (!first.has(key)) first.set(key, item);
  }
  const ids = await insertEvents(
    tx,
    origin,
    [...first.values()].map(({ event }) => ({
      source: event.source,
      event_id: event.id,
      type: event.type,
      kind: event.family,
      occurred_at: event.time,
      trace_parent: event.traceparent ?? currentTraceParent(),
    })),
  );
  const fresh = [...first]
    .filter(([key]) => ids.has(key))
    .map(([key, item]) => ({ id: ids.get(key)!, event: item.event }));

  const drafts = fresh
    .filter(({ event }) => event.family !== 'erasure')
    .map(({ id, event }) => ({ id, draft: draftOf(event, exchanges.get(responseIdOf(event) ?? ''), rules) }));
  const rows = (await judge(tx, owner, drafts)).map(({ id, draft, excluded }) => ({
    kind: draft.kind,
    row: rowOf(draft, id, excluded),
  }));
  await insertFeedback(
    tx,
    rows.flatMap(({ kind, row }) => (kind === 'feedback' ? [row as NewFeedback] : [])),
  );
  await insertDocuments(
    tx,
    rows.flatMap(({ kind, row }) => (kind === 'document' ? [row as NewDocument] : [])),
  );

  for (const { event } of fresh)
    if (event.type === 'learnd.erasure') await eraseUser(tx, rules.secret, event.data.user);
  if (fresh.length > 0) await notify(tx, 'events');
  return { accepted: fresh.length, duplicates: kept.length - fresh.length, erased };
}

/** Leaves out events of users who were erased before them, be it earlier in this very batch. */
async function withoutErased(
  tx: Queryable,
  items: readonly Item[],
  exchanges: ReadonlyMap<string, ReferredExchange>,
  secret: Uint8Array,
): Promise<{ kept: Item[]; erased: Rejection[] }> {
  const users = items.map(({ event }) => userOf(event, exchanges.get(responseIdOf(event) ?? '')));
  const hashes = new Map(
    [...new Set(users)].flatMap(user => (user === undefined ? [] : [[user, userHash(secret, user)]])),
  );
  const known = await erasedAmong(tx, [...hashes.values()]);
  const gone = new Set([...hashes].filter(([, hash]) => known.has(hash.toString('hex'))).map(([user]) => user));
  const kept: Item[] = [];
  const erased: Rejection[] = [];
  for (const [i, item] of items.entries()) {
    const user = users[i];
    if (item.event.type === 'learnd.erasure') {
      kept.push(item);
      gone.add(item.event.data.user);
    } else if (user !== undefined && gone.has(user)) erased.push({ index: item.index, field: 'user', reason: ERASED });
    else kept.push(item);
  }
  return { kept, erased };
}
