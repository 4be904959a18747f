import type { Log } from '../../base/log.ts';
import { TOPICS } from '../../events/out.ts';
import type { Database, Queryable } from '../../store/database.ts';
import { insertDeadLetter, type NewDeadLetter } from '../../store/dead-letters.ts';
import { erasedAmong } from '../../store/erasures.ts';
import { advance, fence } from '../../store/offsets.ts';
import { type Decoded, decode } from './decode.ts';
import { userHash } from './erasure.ts';
import type { LogMessage, LogRecord } from './event-log.ts';
import { check, ERASED, type IngestSettings, type Kind, store } from './ingest.ts';

/** From records of the log to rows: events, dead letters and the position move in one transaction. */

export const KIND_OF_TOPIC: Readonly<Record<string, Kind>> = {
  [TOPICS.feedback]: 'feedback',
  [TOPICS.documents]: 'documents',
  [TOPICS.erasures]: 'erasures',
};

export interface RecordsReport {
  readonly accepted: number;
  readonly duplicates: number;
  /** Unreadable: stored as dead letters. */
  readonly dead: number;
  /** Of users who were erased: dropped. */
  readonly erased: number;
}

export interface RecordsContext {
  readonly db: Database;
  readonly settings: IngestSettings;
  readonly secret: Uint8Array;
  readonly log: Log;
  /** Announces dead letters on the log; the rows in Postgres are what counts, so a failure is only reported. */
  readonly publish?: ((topic: string, messages: readonly LogMessage[]) => Promise<void>) | undefined;
}

/** Bytes of records stored in one transaction at most. */
const BYTES = 16 << 20;

const sum = (a: RecordsReport, b: RecordsReport): RecordsReport => ({
  accepted: a.accepted + b.accepted,
  duplicates: a.duplicates + b.duplicates,
  dead: a.dead + b.dead,
  erased: a.erased + b.erased,
});
const NOTHING: RecordsReport = { accepted: 0, duplicates: 0, dead: 0, erased: 0 };

/** Consecutive records of one partition, bounded in number and bytes. */
function* chunks(records: readonly LogRecord[], most: number): Generator<readonly LogRecord[]> {
  let chunk: LogRecord[] = [];
  let bytes = 0;
  for (const record of records) {
    const size = record.value?.length ?? 0;
    const first = chunk[0];
    const apart = first !== undefined && (first.topic !== record.topic || first.partition !== record.partition);
    if (first !== undefined && (apart || chunk.length === most || bytes + size > BYTES)) {
      yield chunk;
      chunk = [];
      bytes = 0;
    }
    chunk.push(record);
    bytes += size;
  }
  if (chunk.length > 0) yield chunk;
}

/**
 * Stores records; idempotent, whatever comes again. No record can block its partition: one that the database refuses for its
 * content becomes a dead letter too.
 * @throws what the database throws while it is away: the same records must come again
 */
export async function ingestRecords(context: RecordsContext, records: readonly LogRecord[]): Promise<RecordsReport> {
  let report = NOTHING;
  for (const chunk of chunks(records, context.settings.limits.batch_events))
    report = sum(report, await storeChunk(context, chunk));
  return report;
}

/** SQLSTATE classes that blame the data: data exception, integrity violation, program limit exceeded. */
const blamesData = (thrown: unknown): boolean => {
  const { code } = thrown as { code?: string };
  return code === 'invalid' || code === 'too_large' || /^(22|23|54)/.test(code ?? '');
};

async function storeChunk(context: RecordsContext, chunk: readonly LogRecord[]): Promise<RecordsReport> {
  const { limits } = context.settings;
  const decoded = chunk.map(record => decode(record, limits.event_bytes));
  try {
    return await storeDecoded(context, chunk, decoded);
  } catch (thrown) {
    if (!blamesData(thrown)) throw thrown;
    if (chunk.length === 1) {
      const reason = `the database refused it: ${(thrown as Error).message.split('\n')[0]}`;
      context.log.error('an event that was checked could not be stored', { error: thrown });
      return storeDecoded(context, chunk, [{ ok: false, field: '', reason }]);
    }
    const half = chunk.length >> 1;
    return sum(await storeChunk(context, chunk.slice(0, half)), await storeChunk(context, chunk.slice(half)));
  }
}

async function storeDecoded(
  { db, settings, secret, log, publish }: RecordsContext,
  chunk: readonly LogRecord[],
  decoded: readonly Decoded[],
): Promise<RecordsReport> {
  const { topic, partition } = chunk[0]!;
  const checked = check(
    settings,
    decoded.map(one => (one.ok ? one.event : undefined)),
    KIND_OF_TOPIC[topic],
    chunk.map(record => record.value?.length ?? 0),
  );
  const letters = new Map<number, NewDeadLetter>();
  for (const { index, field, reason } of checked.rejected) {
    const record = chunk[index]!;
    const one = decoded[index]!;
    letters.set(index, {
      topic,
      partition,
      offset: record.offset,
      key: record.key,
      payload: payloadOf(record, one, settings.limits.event_bytes),
      ...(one.ok ? { field, reason } : { field: one.field, reason: one.reason }),
    });
  }
  // Before they are stored, so that a crash between the two announces a letter twice rather than never.
  if (publish && letters.size > 0) await announce(publish, [...letters.values()], log);
  let seen = 0;
  let dead = 0;
  const stored = await store(db, settings, secret, checked, {
    origin: 'kafka',
    within: async tx => {
      const next = await fence(tx, topic, partition);
      const isOld = (index: number) => chunk[index]!.offset < next;
      seen = chunk.filter(record => record.offset < next).length;
      const fresh = [...letters].filter(([index]) => !isOld(index));
      for (const [index, letter] of fresh)
        await insertDeadLetter(tx, await withoutErased(tx, secret, letter, decoded[index]!));
      dead = fresh.length;
      await advance(tx, { topic, partition, next: chunk.at(-1)!.offset + 1 });
      return isOld;
    },
  });
  if (seen > 0) log.debug('records seen before', { topic, partition, seen });
  const erased = stored.rejected.filter(one => one.reason === ERASED && !letters.has(one.index)).length;
  return { accepted: stored.accepted, duplicates: stored.duplicates + seen, dead, erased };
}

/** Structured JSON where it could be decoded, so that it can be replayed without its headers. */
function payloadOf(record: LogRecord, decoded: Decoded, limit: number): Buffer | null {
  if (record.value === null || record.value.length > limit) return null;
  return decoded.ok && decoded.binary ? Buffer.from(JSON.stringify(decoded.event)) : record.value;
}

/** The letter of an erased user keeps its reason, not its content. */
async function withoutErased(
  tx: Queryable,
  secret: Uint8Array,
  letter: NewDeadLetter,
  decoded: Decoded,
): Promise<NewDeadLetter> {
  const data = decoded.ok ? (decoded.event as { data?: { user?: unknown } } | null)?.data : undefined;
  const named = typeof data === 'object' && typeof data?.user === 'string' ? [data.user] : [];
  const users = letter.key === null ? named : [...named, letter.key.toString()];
  const erased = await erasedAmong(
    tx,
    users.map(user => userHash(secret, user)),
  );
  return erased.size > 0 ? { ...letter, key: null, payload: null } : letter;
}

async function announce(
  publish: NonNullable<RecordsContext['publish']>,
  letters: readonly NewDeadLetter[],
  log: Log,
): Promise<void> {
  const messages = letters.map(letter => ({
    key: letter.key,
    value: letter.payload,
    headers: {
      'learnd-reason': letter.reason,
      'learnd-field': letter.field,
      'learnd-topic': letter.topic,
      'learnd-partition': String(letter.partition),
      'learnd-offset': String(letter.offset),
    },
  }));
  try {
    await publish(TOPICS.dead, messages);
  } catch (error) {
    log.warn(`dead letters are stored, but could not be announced on ${TOPICS.dead}`, {
      letters: letters.length,
      error,
    });
  }
}
