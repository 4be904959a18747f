import type { Database } from '../../store/database.ts';
import { markReplayed, replayable, stillDead } from '../../store/dead-letters.ts';
import { decode } from './decode.ts';
import { check, type IngestSettings, store } from './ingest.ts';
import { KIND_OF_TOPIC } from './records.ts';

export interface ReplayReport {
  /** Letters that were read now; the events among them that were new are `accepted`. */
  readonly replayed: number;
  readonly accepted: number;
  /** Letters that are still unreadable, their reason brought up to date. */
  readonly dead: number;
}

/** Reads all dead letters again, oldest first: after a limit was raised, or by a program that knows more types. */
export async function replayDeadLetters(
  db: Database,
  settings: IngestSettings,
  secret: Uint8Array,
): Promise<ReplayReport> {
  const report = { replayed: 0, accepted: 0, dead: 0 };
  for (let after = 0; ; ) {
    const letters = await replayable(db, after, 100);
    for (const letter of letters) {
      after = letter.id;
      const decoded = decode({ key: letter.key, value: letter.payload, headers: {} }, settings.limits.event_bytes);
      const checked = decoded.ok ? check(settings, [decoded.event], KIND_OF_TOPIC[letter.topic]) : undefined;
      const refused = decoded.ok ? checked!.rejected[0] : decoded;
      if (refused) {
        await stillDead(db, letter.id, refused.reason, refused.field);
        report.dead++;
        continue;
      }
      const { accepted } = await store(db, settings, secret, checked!, {
        origin: 'kafka',
        within: async tx => {
          await markReplayed(tx, letter.id);
          return () => false;
        },
      });
      report.replayed++;
      report.accepted += accepted;
    }
    if (letters.length === 0) return report;
  }
}
