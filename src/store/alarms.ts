import type { Queryable } from './database.ts';

/** Alarms: at most one open a signal (unique index `alarms_one_open`). */
export interface AlarmRow {
  readonly id: number;
  readonly signal: AlarmSignal;
  readonly version: number;
  readonly detector: string;
  readonly value: number | null;
  readonly reference: number | null;
  readonly raised_at: Date;
  readonly cleared_at: Date | null;
  readonly cleared_why: string | null;
}

export type AlarmSignal = 'f1' | 'perplexity';

export async function openAlarms(db: Queryable): Promise<AlarmRow[]> {
  const { rows } = await db.query<AlarmRow>('select * from alarms where cleared_at is null order by id');
  return rows;
}

/** Newest first. */
export async function listAlarms(db: Queryable, limit = 100): Promise<AlarmRow[]> {
  const { rows } = await db.query<AlarmRow>('select * from alarms order by id desc limit $1', [limit]);
  return rows;
}

/** @returns false when one is open for the signal already. */
export async function raiseAlarm(
  db: Queryable,
  alarm: Pick<AlarmRow, 'signal' | 'version' | 'detector' | 'value' | 'reference'>,
): Promise<boolean> {
  const { rowCount } = await db.query(
    `insert into alarms (signal, version, detector, value, reference) values ($1, $2, $3, $4, $5)
     on conflict (signal) where cleared_at is null do nothing`,
    [alarm.signal, alarm.version, alarm.detector, alarm.value, alarm.reference],
  );
  return rowCount > 0;
}

/** Clears the open alarm of a signal. @returns the row, or undefined when none was open. */
export async function clearAlarm(db: Queryable, signal: AlarmSignal, why: string): Promise<AlarmRow | undefined> {
  const { rows } = await db.query<AlarmRow>(
    'update alarms set cleared_at = now(), cleared_why = $2 where signal = $1 and cleared_at is null returning *',
    [signal, why],
  );
  return rows[0];
}
