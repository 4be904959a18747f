/** Events by HTTP and by the socket: one or an array, answered once they are durable. */
import { invalid, LearndError } from '../base/errors.ts';
import type { EventKind, IngestReport, ServePorts } from './ports.ts';

/** @throws 'invalid' for an empty or oversized batch, 'not_ready'/'dependency' when they cannot be stored now. */
export async function ingestEvents(
  ports: ServePorts,
  kind: EventKind,
  body: unknown,
  batchAtMost: number,
  origin: 'http' | 'socket',
): Promise<IngestReport> {
  const events = Array.isArray(body) ? body : [body];
  if (events.length === 0) throw invalid('', 'the array of events is empty');
  if (events.length > batchAtMost) {
    throw new LearndError('too_large', `${events.length} events in one batch; at most ${batchAtMost}`, {
      hint: 'Send several batches.',
    });
  }
  return await ports.ingest(kind, events, origin);
}

/** All were refused: the request as a whole was wrong. Names the first field at fault. */
export function whollyRejected(report: IngestReport): LearndError | undefined {
  const first = report.rejected[0];
  if (first === undefined || report.accepted > 0 || report.duplicates > 0) return undefined;
  return invalid(
    first.field,
    `${report.rejected.length === 1 ? 'the event was' : 'every event was'} refused: ${first.reason}`,
  );
}
