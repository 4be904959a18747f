import cron from 'node-cron';

/**
 * Cron patterns and time zones without timers. node-cron 4.6 parses the pattern and says whether a wall-clock minute matches it;
 * which instants have that wall-clock time is worked out here, minute by minute in UTC, because its own timers have had faults
 * at clock changes (node-cron issues 492 and 509). At a clock change, as cron(8) does:
 * - forward: a minute that the day does not have is due at the first minute after the gap;
 * - back: a minute that comes twice is due the first time only, except for patterns that name every hour, which follow real time.
 */
export interface Schedule {
  readonly pattern: string;
  readonly timezone: string;
  /** @returns start of the latest minute in (after, until] in which it is due, ms since the epoch. */
  lastDue(after: number, until: number): number | undefined;
}

const MINUTE = 60_000;
/** Every zone changes its offset on a quarter of an hour in UTC (IANA tz database). */
const QUARTER = 15 * MINUTE;

const formats = new Map<string, Intl.DateTimeFormat>();

/** @returns undefined for a zone this system does not know. */
function format(timezone: string): Intl.DateTimeFormat | undefined {
  let made = formats.get(timezone);
  if (made) return made;
  try {
    made = new Intl.DateTimeFormat('en-US', {
      timeZone: timezone,
      calendar: 'gregory',
      numberingSystem: 'latn',
      hourCycle: 'h23',
      year: 'numeric',
      month: 'numeric',
      day: 'numeric',
      hour: 'numeric',
      minute: 'numeric',
      second: 'numeric',
    });
  } catch {
    return undefined;
  }
  formats.set(timezone, made);
  return made;
}

export const isTimezone = (timezone: string): boolean => format(timezone) !== undefined;

/** Milliseconds that the zone's wall clock is ahead of UTC. */
function offset(timezone: string, at: number): number {
  const quarter = Math.floor(at / QUARTER) * QUARTER;
  const part = new Map(
    format(timezone)!
      .formatToParts(quarter)
      .map(p => [p.type, Number(p.value)]),
  );
  const wall = Date.UTC(
    part.get('year')!,
    part.get('month')! - 1,
    part.get('day'),
    part.get('hour'),
    part.get('minute'),
    part.get('second'),
  );
  return wall - quarter;
}

/** Hour 0 to 23 and weekday 0 (Sunday) to 6, as the zone's wall clock shows them. */
export function wallClock(timezone: string, at: number): { hour: number; weekday: number } {
  const wall = new Date(at + offset(timezone, at));
  return { hour: wall.getUTCHours(), weekday: wall.getUTCDay() };
}

/** @returns the schedule, or what is wrong with the pattern. */
export function parseSchedule(pattern: string, timezone: string): Schedule | string {
  const trimmed = pattern.trim();
  const fields = trimmed.startsWith('@') ? 5 : trimmed.split(/\s+/).length;
  if (fields !== 5)
    return `a schedule has five fields (minute hour day-of-month month day-of-week), this one has ${fields}`;
  const checked = cron.validateDetailed(trimmed);
  if (!checked.valid)
    return `not a schedule: ${checked.errors.map(e => `${e.field}: ${e.message}`).join('; ') || 'unreadable'}`;
  // Asked about wall-clock times written as if they were UTC, so its own idea of zones plays no part. Never started.
  const task = cron.createTask(trimmed, () => undefined, { timezone: 'UTC' });
  void task.destroy();
  const matches = (wall: number): boolean => task.match(new Date(wall));
  const everyHour = checked.fields!.hour.length === 24;

  const due = (minute: number): boolean => {
    const now = offset(timezone, minute);
    const wall = minute + now;
    const before = offset(timezone, minute - 1);
    if (now > before) {
      // First minute after a gap: the wall-clock minutes it skipped are due now.
      for (let skipped = minute + before; skipped < wall; skipped += MINUTE)
        if (!everyHour && matches(skipped)) return true;
    }
    if (!matches(wall)) return false;
    if (everyHour) return true;
    // Second time round: the same wall-clock time was there already under the larger offset. No zone goes back further than a day.
    for (const earlier of [30 * MINUTE, 60 * MINUTE, 120 * MINUTE]) {
      const then = minute - earlier;
      if (then + offset(timezone, then) === wall) return false;
    }
    return true;
  };

  return {
    pattern: trimmed,
    timezone,
    lastDue: (after, until) => {
      for (let minute = Math.floor(until / MINUTE) * MINUTE; minute > after; minute -= MINUTE)
        if (due(minute)) return minute;
      return undefined;
    },
  };
}
