import { type OutData, type OutType, TOPICS } from '../../events/out.ts';
import type { Database } from '../../store/database.ts';
import { claimEvents, markPublished, type OutEvent } from '../../store/outbox.ts';

/** The part of the event log that publishing needs; resolves once the broker has acknowledged. */
export interface PublishLog {
  publish(topic: string, key: string, value: string): Promise<void>;
}

export interface CloudEvent<T extends OutType = OutType> {
  readonly specversion: '1.0';
  /** With `source`, what a receiver drops repetitions by. */
  readonly id: string;
  readonly source: string;
  readonly type: T;
  readonly time: string;
  readonly datacontenttype: 'application/json';
  readonly data: OutData[T];
}

/** @param source e.g. `/learnd/NAME` */
export const cloudEvent = (event: OutEvent, source: string): CloudEvent => ({
  specversion: '1.0',
  id: String(event.id),
  source,
  type: event.type,
  time: event.created_at.toISOString(),
  datacontenttype: 'application/json',
  data: event.data,
});

/**
 * Publishes what waits in the outbox, in order, at least once: a crash between the broker's acknowledgement and our commit repeats
 * events, with the ids they had. All go under one key, so one partition keeps the order. What was acknowledged before a failure is
 * marked before the failure is thrown.
 * @returns how many; 0 as well while another process publishes.
 */
export async function publishOutbox(
  db: Database,
  log: PublishLog,
  options: { name: string; batch?: number },
): Promise<number> {
  const source = `/learnd/${options.name}`;
  const batch = options.batch ?? 100;
  for (let total = 0; ; ) {
    let failed: { error: unknown } | undefined;
    const done = await db.tx(async tx => {
      failed = undefined;
      let last: number | undefined;
      let count = 0;
      for (const event of (await claimEvents(tx, batch)) ?? []) {
        try {
          await log.publish(TOPICS.announcements, options.name, JSON.stringify(cloudEvent(event, source)));
        } catch (error) {
          failed = { error };
          break;
        }
        last = event.id;
        count += 1;
      }
      if (last !== undefined) await markPublished(tx, last);
      return count;
    });
    if (failed) throw failed.error;
    total += done;
    if (done < batch) return total;
  }
}
