import { createHash } from 'node:crypto';
import { z } from 'zod';
import type { Limits } from './context.ts';
import { type Document, document } from './document.ts';
import { type Envelope, envelope } from './envelope.ts';
import { type Erasure, erasure } from './erasure.ts';
import {
  type Correction,
  correction,
  type Label,
  label,
  type Preference,
  preference,
  type Rating,
  rating,
} from './feedback.ts';

/** Everything that may come in, by its type. One schema validates it, types it and is served as its documentation. */
const SCHEMAS = {
  'learnd.feedback.rating': rating,
  'learnd.feedback.label': label,
  'learnd.feedback.correction': correction,
  'learnd.feedback.preference': preference,
  'learnd.document': document,
  'learnd.erasure': erasure,
} as const;

export interface DataOf {
  'learnd.feedback.rating': Rating;
  'learnd.feedback.label': Label;
  'learnd.feedback.correction': Correction;
  'learnd.feedback.preference': Preference;
  'learnd.document': Document;
  'learnd.erasure': Erasure;
}

export type EventType = keyof DataOf;
export type Family = 'feedback' | 'document' | 'erasure';
export const eventTypes = Object.keys(SCHEMAS) as readonly EventType[];
export const familyOf = (type: EventType): Family =>
  type === 'learnd.document' ? 'document' : type === 'learnd.erasure' ? 'erasure' : 'feedback';

/** A valid event. `source` and `id` are the idempotency key. */
export type LearndEvent = {
  [T in EventType]: {
    readonly type: T;
    readonly family: Family;
    readonly source: string;
    readonly id: string;
    readonly time: string | undefined;
    readonly traceparent: string | undefined;
    readonly data: Readonly<DataOf[T]>;
  };
}[EventType];

export type Parsed =
  | { readonly ok: true; readonly event: LearndEvent }
  /** `field`: dotted path ('' when the event as a whole is wrong). The reason never repeats a value. */
  | { readonly ok: false; readonly field: string; readonly reason: string };

/** Source of an event that names none. */
export const UNNAMED_SOURCE = 'learnd:unnamed';

type DataSchema = { schema: z.ZodType; keys: ReadonlySet<string> };
const built = new WeakMap<Limits, Record<EventType, DataSchema>>();

function schemasFor(limits: Limits): Record<EventType, DataSchema> {
  let schemas = built.get(limits);
  if (!schemas) {
    const entries = eventTypes.map(type => {
      const schema = SCHEMAS[type](limits);
      return [type, { schema, keys: new Set(Object.keys(schema.shape)) }] as const;
    });
    schemas = Object.fromEntries(entries) as unknown as Record<EventType, DataSchema>;
    built.set(limits, schemas);
  }
  return schemas;
}

/** JSON Schema of each type's data, for the served API documents. */
export const dataJsonSchemas = (limits: Limits): Record<EventType, unknown> =>
  Object.fromEntries(
    eventTypes.map(type => [type, z.toJSONSchema(schemasFor(limits)[type].schema, { io: 'input' })]),
  ) as Record<EventType, unknown>;

export const envelopeJsonSchema = (): unknown => z.toJSONSchema(envelope, { io: 'input' });

function refusal(error: z.ZodError, under: string): Parsed {
  const issue = error.issues[0]!;
  const path = [...(under === '' ? [] : [under]), ...issue.path.map(String)];
  if (issue.code === 'unrecognized_keys') {
    const key = issue.keys[0]!.slice(0, 64);
    return { ok: false, field: [...path, key].join('.'), reason: `unknown field ${key}` };
  }
  return { ok: false, field: path.join('.'), reason: `${path.at(-1) ?? 'the event'} ${issue.message}` };
}

/** A producer that writes null for "not given" means just that; an unknown field stays, to be refused. */
function withoutNulls(data: Record<string, unknown>, known: ReadonlySet<string>): Record<string, unknown> {
  const absent = Object.keys(data).filter(key => data[key] === null && known.has(key));
  if (absent.length === 0) return data;
  return Object.fromEntries(Object.entries(data).filter(([key]) => !absent.includes(key)));
}

/** The same content gives the same id, whatever the order of its keys. */
function contentId(event: Envelope): string {
  const canonical = (value: unknown): unknown =>
    Array.isArray(value)
      ? value.map(canonical)
      : typeof value === 'object' && value !== null
        ? Object.entries(value)
            .sort(([a], [b]) => (a < b ? -1 : 1))
            .map(([key, child]) => [key, canonical(child)])
        : value;
  const content = JSON.stringify(canonical({ type: event.type, time: event.time, data: event.data }));
  return `sha256:${createHash('sha256').update(content).digest('hex')}`;
}

/** Bytes as JSON; undefined for what came from no JSON text (cycles, BigInt). */
function sizeOf(value: unknown): number | undefined {
  try {
    return Buffer.byteLength(JSON.stringify(value));
  } catch {
    return undefined;
  }
}

/**
 * Checks one event: an envelope of CloudEvents 1.0 and data of a known type, every size bounded.
 * `bytes`: size of the event as it came, where the caller knows it; measured otherwise.
 * Never throws, whatever it is given.
 */
export function parseEvent(input: unknown, limits: Limits, bytes?: number): Parsed {
  if (typeof input !== 'object' || input === null || Array.isArray(input))
    return { ok: false, field: '', reason: 'an event must be a JSON object (CloudEvents 1.0)' };
  if ('data_base64' in input)
    return { ok: false, field: 'data_base64', reason: 'data_base64 is not supported: send data' };
  const checked = envelope.safeParse(input);
  if (!checked.success) return refusal(checked.error, '');
  const outer = checked.data;
  // zod leaves this key out without a word; JSON.parse makes it an ordinary field.
  if (Object.hasOwn((input as { data: object }).data, '__proto__'))
    return { ok: false, field: 'data.__proto__', reason: 'unknown field __proto__' };
  const size = bytes ?? sizeOf(outer);
  if (size === undefined) return { ok: false, field: '', reason: 'the event cannot be written as JSON' };
  if (size > limits.event_bytes)
    return { ok: false, field: '', reason: `the event is ${size} bytes, the limit is ${limits.event_bytes}` };
  if (!Object.hasOwn(SCHEMAS, outer.type))
    return { ok: false, field: 'type', reason: `unknown type; known: ${eventTypes.join(', ')}` };
  const type = outer.type as EventType;
  const { schema, keys } = schemasFor(limits)[type];
  const data = schema.safeParse(withoutNulls(outer.data, keys));
  if (!data.success) return refusal(data.error, 'data');
  const event = {
    type,
    family: familyOf(type),
    source: outer.source ?? UNNAMED_SOURCE,
    id: outer.id ?? contentId(outer),
    time: outer.time,
    traceparent: outer.traceparent,
    data: data.data,
  };
  return { ok: true, event: event as LearndEvent };
}
