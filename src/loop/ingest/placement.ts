import type { Log } from '../../base/log.ts';
import type { Position } from '../../store/offsets.ts';
import type { Consumption } from './event-log.ts';

export interface Watermarks {
  readonly partition: number;
  /** The oldest record there is. */
  readonly low: number;
  /** One past the newest. */
  readonly high: number;
}

/**
 * Where to read each assigned partition from. Postgres is believed, not the group's offsets in the broker: a restored database reads
 * again what it has lost, an emptied one everything, and a new group id nothing twice.
 */
export async function place(
  consumption: Pick<Consumption, 'positions' | 'reset'>,
  assignment: Readonly<Record<string, readonly number[]>>,
  at: { watermarks(topic: string): Promise<readonly Watermarks[]>; start: 'earliest' | 'latest'; log: Log },
): Promise<Position[]> {
  const stored = new Map((await consumption.positions()).map(one => [`${one.topic}/${one.partition}`, one.next]));
  const placed: Position[] = [];
  for (const [topic, partitions] of Object.entries(assignment)) {
    const marks = new Map((await at.watermarks(topic)).map(one => [one.partition, one]));
    for (const partition of partitions) {
      const { low, high } = marks.get(partition) ?? { low: 0, high: 0 };
      const next = stored.get(`${topic}/${partition}`);
      if (next === undefined) {
        const start = { topic, partition, next: at.start === 'earliest' ? low : high };
        // "latest" is decided once: after a restart it would be a later one, and what came meanwhile lost.
        if (at.start === 'latest') await consumption.reset(start);
        placed.push(start);
      } else if (next > high) {
        at.log.warn('the topic was made anew: reading it from its beginning', { topic, partition, stored: next, high });
        await consumption.reset({ topic, partition, next: low });
        placed.push({ topic, partition, next: low });
      } else {
        if (next < low)
          at.log.warn('the broker removed records before they were read', { topic, partition, records: low - next });
        placed.push({ topic, partition, next: Math.max(next, low) });
      }
    }
  }
  return placed;
}
