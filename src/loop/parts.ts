import type { Clock } from '../base/clock.ts';
import type { Log } from '../base/log.ts';
import type { Settings } from '../base/settings.ts';
import type { Artifacts } from '../store/artifacts.ts';
import type { Database } from '../store/database.ts';
import type { ServingStats } from './monitor/serving.ts';

/** What the loop is made of. */
export interface CycleParts {
  readonly db: Database;
  readonly artifacts: Artifacts;
  readonly settings: Settings;
  readonly secret: Uint8Array;
  readonly stats: ServingStats;
  readonly log: Log;
  readonly clock?: Clock;
}
