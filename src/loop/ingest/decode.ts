import type { LogRecord } from './event-log.ts';

/** From the bytes of a record to an event not yet checked: CloudEvents over Kafka, structured (JSON) or binary (`ce_` headers). */

export type Decoded =
  | { readonly ok: true; readonly event: unknown; readonly binary: boolean }
  | { readonly ok: false; readonly field: string; readonly reason: string };

const utf8 = new TextDecoder('utf-8', { fatal: true });
const dead = (reason: string, field = ''): Decoded => ({ ok: false, field, reason });

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

export function decode(record: Pick<LogRecord, 'key' | 'value' | 'headers'>, maxBytes: number): Decoded {
  const { value, headers } = record;
  if (value === null || value.length === 0) return dead('the message is empty');
  if (value.length > maxBytes) return dead(`the message is ${value.length} bytes, the limit is ${maxBytes}`);
  let text: string;
  try {
    text = utf8.decode(value);
  } catch {
    return dead('the message is not UTF-8');
  }
  let body: unknown;
  try {
    body = JSON.parse(text);
  } catch {
    // What JSON.parse says repeats the text.
    return dead('the message is not JSON');
  }
  const binary = headers.ce_type !== undefined;
  const event = binary ? { ...attributes(headers), data: body } : body;
  if (!isObject(event)) return dead('an event must be a JSON object (CloudEvents 1.0)');
  return { ok: true, event: withContext(event, record), binary };
}

const attributes = (headers: Readonly<Record<string, string>>): Record<string, string> =>
  Object.fromEntries(
    Object.entries(headers)
      .filter(([name]) => name.startsWith('ce_'))
      .map(([name, value]) => [name.slice(3), value]),
  );

/** The key is the user's pseudonym by contract: an event that names no user is that user's, not a unit of its own. */
function withContext(event: Record<string, unknown>, { key, headers }: Pick<LogRecord, 'key' | 'headers'>): unknown {
  const trace =
    event.traceparent === undefined && headers.traceparent !== undefined ? { traceparent: headers.traceparent } : {};
  const { data } = event;
  const named = !isObject(data) || (data.user !== undefined && data.user !== null);
  if (named || key === null || key.length === 0) return { ...event, ...trace };
  return { ...event, ...trace, data: { ...data, user: key.toString() } };
}
