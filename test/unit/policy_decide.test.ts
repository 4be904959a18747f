import assert from 'node:assert/strict';
import test from 'node:test';
import { type Signals, type SignalValue, signalNames } from '../../src/events/signals.ts';
import { type Decision, decide, failurePauseMs, type History } from '../../src/loop/policy/decide.ts';
import { compileExpression, type Expression } from '../../src/loop/policy/expression.ts';
import { parsePolicy } from '../../src/loop/policy/parse.ts';
import { dueTicks } from '../../src/loop/policy/turn.ts';

const NOW = Date.parse('2026-06-03T10:30:00Z'); // a Wednesday
const HOUR = 3_600_000;
const signals = (given: Record<string, SignalValue>): Signals =>
  Object.fromEntries(signalNames.map(name => [name, given[name] ?? null])) as Signals;
const quiet: History = { lastFired: new Map(), runningRound: null, failures: 0, lastFailedAt: null };
const policy = (rules: string) => parsePolicy(`rules:\n${rules}`, { file: 'p.yaml' });
const drift = policy(`  - name: drift
    when: f1.alarm
    require: feedback.new >= 200
    do: [{ finetune: { data: feedback, epsilon: 1 } }]
    cooldown: 6h
`);
const decided = (given: Record<string, SignalValue>, history: Partial<History> = {}, now = NOW): Decision =>
  decide(signals(given), drift, { ...quiet, ...history }, now, new Map());

test('a rule fires when both of its conditions hold, and says on what figures', () => {
  const decision = decided({ 'f1.alarm': true, 'feedback.new': 250 });
  assert.equal(decision.outcome, 'round');
  assert.equal(decision.rule, 'drift');
  assert.equal(
    decision.reason,
    'Rule drift: f1.alarm (f1.alarm = true) and feedback.new >= 200 (feedback.new = 250); it does finetune.',
  );
  assert.deepEqual(decision.rules, [{ rule: 'drift', fired: true, blocked: [], kinds: [], unknown: [] }]);
});

const blocked: Array<[what: string, given: Record<string, SignalValue>, history: Partial<History>, because: string[]]> =
  [
    ['when', { 'f1.alarm': false, 'feedback.new': 250 }, {}, ['when is false: f1.alarm (f1.alarm = false)']],
    [
      'require',
      { 'f1.alarm': true, 'feedback.new': 120 },
      {},
      ['require is false: feedback.new >= 200 (feedback.new = 120)'],
    ],
    [
      'both',
      { 'f1.alarm': false, 'feedback.new': 1 },
      {},
      ['when is false: f1.alarm (f1.alarm = false)', 'require is false: feedback.new >= 200 (feedback.new = 1)'],
    ],
    [
      'not known',
      { 'f1.alarm': null, 'feedback.new': 250 },
      {},
      ['when is not known yet: f1.alarm (f1.alarm = unknown)'],
    ],
    ['a running round', { 'f1.alarm': true, 'feedback.new': 250 }, { runningRound: 7 }, ['round 7 is running']],
    [
      'cooldown',
      { 'f1.alarm': true, 'feedback.new': 250 },
      { lastFired: new Map([['drift', NOW - 2.5 * HOUR]]) },
      ['cooldown of 6h: it fired 2h 30m ago, 3h 30m left'],
    ],
    [
      'failed rounds',
      { 'f1.alarm': true, 'feedback.new': 250 },
      { failures: 4, lastFailedAt: NOW - 5 * 60_000 },
      ['pause of 8m after 4 failed rounds in a row, 3m left'],
    ],
  ];
for (const [what, given, history, because] of blocked)
  test(`a rule is blocked and says why: ${what}`, () => {
    const decision = decided(given, history);
    assert.equal(decision.outcome, 'none');
    assert.deepEqual(decision.rules[0]!.blocked, because);
    assert.equal(decision.rules[0]!.fired, false);
    assert.equal(decision.actions, undefined);
    assert.match(decision.reason, /^[A-Z].*\.$/);
  });

test('a signal that is not known is named, and blocks whatever the other condition says', () => {
  assert.deepEqual(decided({ 'feedback.new': 250 }).rules[0]!.unknown, ['f1.alarm']);
  assert.deepEqual(decided({}).rules[0]!.unknown, ['f1.alarm', 'feedback.new']);
});

test('cooldown and pause end to the millisecond', () => {
  const fires = { 'f1.alarm': true, 'feedback.new': 250 };
  const fired = { lastFired: new Map([['drift', NOW]]) };
  assert.equal(decided(fires, fired, NOW + 6 * HOUR - 1).outcome, 'none');
  assert.equal(decided(fires, fired, NOW + 6 * HOUR).outcome, 'round');
  const failed = { failures: 1, lastFailedAt: NOW };
  assert.equal(decided(fires, failed, NOW + 59_999).outcome, 'none');
  assert.equal(decided(fires, failed, NOW + 60_000).outcome, 'round');
});

test('the pause after failed rounds doubles up to six hours', () => {
  assert.deepEqual([0, 1, 2, 3, 9, 10, 100].map(failurePauseMs), [
    0,
    60_000,
    120_000,
    240_000,
    256 * 60_000,
    6 * HOUR,
    6 * HOUR,
  ]);
});

test('the first rule of the file that holds gets the round', () => {
  const two = policy(`  - { name: off, when: "feedback.new > 1000", do: [evaluate] }
  - { name: a, when: "feedback.new > 1", do: [evaluate] }
  - { name: b, when: "true", do: [rollback] }
`);
  const decision = decide(signals({ 'feedback.new': 5 }), two, quiet, NOW, new Map());
  assert.equal(decision.rule, 'a');
  assert.deepEqual(
    decision.rules.map(r => [r.rule, r.fired, r.blocked]),
    [
      ['off', false, ['when is false: feedback.new > 1000 (feedback.new = 5)']],
      ['a', true, []],
      ['b', true, ['rule a comes first']],
    ],
  );
});

test('a rule whose condition stays true does not start rounds without end', () => {
  const always = policy('  - { name: always, when: "true", do: [evaluate] }\n');
  let fired = 0;
  const lastFired = new Map<string, number>();
  for (let now = NOW; now < NOW + HOUR; now += 2000)
    if (decide(signals({}), always, { ...quiet, lastFired }, now, new Map()).outcome === 'round') {
      fired++;
      lastFired.set('always', now);
    }
  assert.equal(fired, 6); // every ten minutes
});

test('what is not built is refused by name when its rule holds', () => {
  const backwards = '[{ quantize: { type: q8_0 } }, { prune: { drop_layers: 1 } }]';
  const slim = policy(`  - { name: slim, when: "true", do: ${backwards} }\n`);
  const decision = decide(signals({}), slim, quiet, NOW, new Map());
  assert.equal(decision.outcome, 'refused');
  assert.equal(decision.rule, 'slim');
  assert.match(
    decision.reason,
    /^Rule slim holds \(true\), but a round in the order quantize, prune .* is not available in this version\.$/,
  );
});

test("time.hour and time.weekday are those of the rule's own zone", () => {
  const zones =
    policy(`  - { name: berlin, timezone: Europe/Berlin, when: "time.hour == 12 && time.weekday == 3", do: [evaluate] }
  - { name: auckland, timezone: Pacific/Auckland, when: "time.hour == 22", do: [evaluate] }
  - { name: kolkata, timezone: Asia/Kolkata, when: "time.hour == 16", do: [evaluate] }
  - { name: utc, when: "time.hour == 10", do: [evaluate] }
`);
  const decision = decide(signals({}), zones, quiet, NOW, new Map());
  assert.deepEqual(
    decision.rules.map(r => r.fired),
    [true, true, true, true],
  );
});

test('a rule with a schedule is blocked until it is due', () => {
  const nightly = policy(`  - { name: nightly, schedule: "30 3 * * *", when: "latency.p95_ms > 800", do: [evaluate] }
  - { name: daily, schedule: "0 12 * * *", do: [evaluate] }
`);
  const slow = signals({ 'latency.p95_ms': 900 });
  assert.deepEqual(
    decide(slow, nightly, quiet, NOW, new Map()).rules.map(r => r.blocked),
    [['not due: 30 3 * * * (UTC)'], ['not due: 0 12 * * * (UTC)']],
  );
  const due = decide(slow, nightly, quiet, NOW, new Map([['nightly', NOW]]));
  assert.equal(due.rule, 'nightly');
  assert.equal(
    due.reason,
    'Rule nightly: it is due (30 3 * * *, UTC) and latency.p95_ms > 800 (latency.p95_ms = 900); it does evaluate.',
  );
  assert.equal(decide(signals({}), nightly, quiet, NOW, new Map([['nightly', NOW]])).outcome, 'none');
  assert.equal(decide(signals({}), nightly, quiet, NOW, new Map([['daily', NOW]])).rule, 'daily');
});

test('ticks: none for a new rule, made up for within the hour, not after', () => {
  const rules = policy('  - { name: n, schedule: "0 3 * * *", do: [evaluate] }\n').rules;
  const at = (time: string) => Date.parse(`2026-06-03T${time}Z`);
  const first = dueTicks(rules, {}, at('03:00:10'));
  assert.equal(first.due.size, 0);
  const key = Object.keys(first.seen)[0]!;
  assert.equal(dueTicks(rules, { [key]: at('02:59:59') }, at('03:00:00')).due.get('n'), at('03:00:00'));
  // Down from 02:00 on, up again after 40 minutes, or after more than an hour.
  assert.equal(dueTicks(rules, { [key]: at('02:00:00') }, at('03:40:00')).due.get('n'), at('03:00:00'));
  assert.equal(dueTicks(rules, { [key]: at('02:00:00') }, at('04:00:01')).due.size, 0);
  assert.equal(dueTicks(rules, { [key]: at('03:00:00') }, at('03:00:30')).due.size, 0);
});

test('unknown signals: Kleene logic, so a negation never fires on what nobody knows', () => {
  const compiled = (text: string): Expression => compileExpression(text, 'rule') as Expression;
  const cases: Array<[string, boolean | undefined]> = [
    ['f1.alarm', undefined],
    ['!f1.alarm', undefined],
    ['!(f1.value > 0.5)', undefined],
    ['f1.alarm || feedback.new > 1', true],
    ['f1.alarm || feedback.new > 9', undefined],
    ['f1.alarm && feedback.new > 9', false],
    ['feedback.new > 9 && f1.alarm', false],
    ['feedback.new > 1 ? f1.alarm : true', undefined],
    ['feedback.new > 1 ? true : f1.alarm', true],
    ['f1.value * 2 > latency.p95_ms', undefined],
    ['[1, 2].exists(x, x == feedback.new)', true],
    ['[1, 2].exists(x, x == f1.value)', undefined],
    ['has(f1.value)', undefined],
    ['feedback["new"] == 2', true],
    ['feedback.new * 1.5 == 3 && 2 * 0.5 == 1.0 && feedback.new / 4.0 == 0.5', true],
    ['feedback.new * 1.5 != 3', false],
  ];
  for (const [text, expected] of cases)
    assert.equal(compiled(text).evaluate({ 'feedback.new': 2, 'f1.alarm': null }), expected, text);
});
