import assert from 'node:assert/strict';
import test from 'node:test';
import cron from 'node-cron';
import { isTimezone, parseSchedule, wallClock } from '../../src/loop/policy/schedule.ts';

/** Every due minute in (from, to], in UTC. */
function due(pattern: string, timezone: string, from: string, to: string): string[] {
  const schedule = parseSchedule(pattern, timezone);
  assert.ok(typeof schedule !== 'string', schedule as string);
  const after = Date.parse(from);
  const found: string[] = [];
  for (let until = Date.parse(to); ; ) {
    const minute = schedule.lastDue(after, until);
    if (minute === undefined) return found.reverse();
    found.push(new Date(minute).toISOString().slice(5, 16));
    until = minute - 60_000;
  }
}

// Europe/Berlin: 2026-03-29 02:00 -> 03:00 (+1 to +2), 2026-10-25 03:00 -> 02:00 (IANA tz database).
const cases: Array<[what: string, pattern: string, from: string, to: string, expected: string[]]> = [
  [
    'before and after the spring change',
    '30 3 * * *',
    '2026-03-28T00:00Z',
    '2026-03-30T12:00Z',
    ['03-28T02:30', '03-29T01:30', '03-30T01:30'],
  ],
  [
    'a minute the day does not have: once, at the end of the gap',
    '30 2 * * *',
    '2026-03-28T00:00Z',
    '2026-03-30T12:00Z',
    ['03-28T01:30', '03-29T01:00', '03-30T00:30'],
  ],
  [
    'before and after the autumn change',
    '30 3 * * *',
    '2026-10-24T00:00Z',
    '2026-10-26T12:00Z',
    ['10-24T01:30', '10-25T02:30', '10-26T02:30'],
  ],
  [
    'a minute that comes twice: once, the first time',
    '30 2 * * *',
    '2026-10-24T00:00Z',
    '2026-10-26T12:00Z',
    ['10-24T00:30', '10-25T00:30', '10-26T01:30'],
  ],
  [
    'every half hour follows real time in spring',
    '*/30 * * * *',
    '2026-03-29T00:00Z',
    '2026-03-29T02:00Z',
    ['03-29T00:30', '03-29T01:00', '03-29T01:30', '03-29T02:00'],
  ],
  [
    'every half hour follows real time in autumn',
    '*/30 * * * *',
    '2026-10-25T00:00Z',
    '2026-10-25T02:00Z',
    ['10-25T00:30', '10-25T01:00', '10-25T01:30', '10-25T02:00'],
  ],
  [
    'midnight of the first and last day of a month',
    '0 0 1,L * *',
    '2026-04-29T00:00Z',
    '2026-06-01T00:00Z',
    ['04-29T22:00', '04-30T22:00', '05-30T22:00', '05-31T22:00'],
  ],
];
for (const [what, pattern, from, to, expected] of cases)
  test(`Europe/Berlin: ${what}`, () => assert.deepEqual(due(pattern, 'Europe/Berlin', from, to), expected));

test('the interval is open at its start and closed at its end', () => {
  const schedule = parseSchedule('30 3 * * *', 'UTC');
  assert.ok(typeof schedule !== 'string');
  const tick = Date.parse('2026-06-03T03:30Z');
  assert.equal(schedule.lastDue(tick - 1, tick), tick);
  assert.equal(schedule.lastDue(tick, tick + 59_999), undefined);
  assert.equal(schedule.lastDue(tick - 60_000, tick - 1), undefined);
});

test('half-hour changes (Lord Howe) and a zone without any', () => {
  // 2026-04-05 02:00 goes back to 01:30 (+11 to +10:30): 01:45 comes twice.
  assert.deepEqual(due('45 1 * * *', 'Australia/Lord_Howe', '2026-04-04T00:00Z', '2026-04-05T23:00Z'), [
    '04-04T14:45',
    '04-05T15:15',
  ]);
  assert.deepEqual(due('15 9 * * 1-5', 'Asia/Kolkata', '2026-06-05T00:00Z', '2026-06-08T23:00Z'), [
    '06-05T03:45',
    '06-08T03:45',
  ]);
});

test('wall clocks', () => {
  const at = Date.parse('2026-12-31T23:30Z');
  assert.deepEqual(wallClock('UTC', at), { hour: 23, weekday: 4 });
  assert.deepEqual(wallClock('Europe/Berlin', at), { hour: 0, weekday: 5 });
  assert.deepEqual(wallClock('America/New_York', at), { hour: 18, weekday: 4 });
  assert.equal(isTimezone('Europe/Berlin'), true);
  assert.equal(isTimezone('Europe/Berln'), false);
});

test('parsing leaves no task behind', () => {
  const before = cron.getTasks().size;
  for (let i = 0; i < 10; i++) parseSchedule('* * * * *', 'UTC');
  assert.equal(cron.getTasks().size, before);
});
