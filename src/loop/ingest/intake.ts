import type { Log } from '../../base/log.ts';
import type { Settings } from '../../base/settings.ts';
import { meter } from '../../base/telemetry.ts';
import { TOPICS_IN } from '../../events/out.ts';
import type { Database } from '../../store/database.ts';
import { resetOffset, storedOffsets } from '../../store/offsets.ts';
import type { EventLog } from './event-log.ts';
import { kafkaLog } from './kafka.ts';
import { ingestRecords, type RecordsReport } from './records.ts';

/** The Kafka side of the ingest role: its topics into the store. */
export interface KafkaIntake {
  readonly log: EventLog;
  /** Since the start. */
  readonly totals: RecordsReport;
  stop(): Promise<void>;
}

/**
 * Starts to consume and returns; brokers that are away are waited for without end.
 * @param parts.eventLog default: Kafka by the settings
 * @throws LearndError('invalid') for settings that cannot work
 */
export async function startKafkaIntake(parts: {
  db: Database;
  settings: Settings;
  secret: Uint8Array;
  log: Log;
  eventLog?: EventLog;
}): Promise<KafkaIntake> {
  const { db, settings, secret } = parts;
  const log = parts.log.child('ingest');
  const eventLog = parts.eventLog ?? kafkaLog(settings.kafka, { log });
  const records = meter().createCounter('learnd_kafka_records', {
    description: 'Records read from Kafka, by what became of them',
  });
  const totals = { accepted: 0, duplicates: 0, dead: 0, erased: 0 };
  eventLog.consume({
    topics: TOPICS_IN,
    positions: () => storedOffsets(db),
    reset: position => resetOffset(db, position),
    onBatch: async batch => {
      const report = await ingestRecords(
        { db, settings, secret, log, publish: (topic, messages) => eventLog.publish(topic, messages) },
        batch,
      );
      for (const outcome of ['accepted', 'duplicates', 'dead', 'erased'] as const) {
        totals[outcome] += report[outcome];
        if (report[outcome] > 0) records.add(report[outcome], { outcome });
      }
      if (report.dead > 0)
        log.warn('messages could not be read: dead letters', { topic: batch[0]?.topic, dead: report.dead });
    },
  });
  return { log: eventLog, totals, stop: () => eventLog.close() };
}
