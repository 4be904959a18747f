import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import test from 'node:test';
import { Alarm } from '../../src/learn/drift/alarm.ts';
import type { Settings } from '../../src/learn/drift/detector.ts';
import { createDetector, DETECTOR_NAMES } from '../../src/learn/drift/registry.ts';
import { SecureStream } from '../../src/learn/privacy/noise.ts';

interface Golden {
  streams: Record<string, number[]>;
  cases: { stream: string; detector: string; settings: Settings; alarms: number[] }[];
}
const golden = JSON.parse(readFileSync(new URL('../golden/drift.json', import.meta.url), 'utf8')) as Golden;

test('every detector alarms at the indices of river 0.26.1', () => {
  assert.ok(golden.cases.length > 70);
  assert.ok(golden.cases.filter(c => c.alarms.length > 0).length > 40);
  for (const { stream, detector: name, settings, alarms } of golden.cases) {
    const detector = createDetector(name, settings);
    const found = golden.streams[stream]!.flatMap((x, i) => (detector.update(x).drift ? [i] : []));
    assert.deepEqual(found, alarms, `${name} ${JSON.stringify(settings)} on ${stream}`);
  }
});

test('a restored detector goes on as if nothing had happened', () => {
  for (const { stream, detector: name, settings, alarms } of golden.cases) {
    let detector = createDetector(name, settings);
    const found: number[] = [];
    golden.streams[stream]!.forEach((x, i) => {
      if (i % 97 === 0) {
        const stored = JSON.parse(JSON.stringify(detector.snapshot()));
        detector = createDetector(name, settings);
        detector.restore(stored);
      }
      if (detector.update(x).drift) found.push(i);
    });
    assert.deepEqual(found, alarms, `${name} on ${stream}`);
  }
});

test('the direction of drift is that of the mean', () => {
  for (const name of ['adwin', 'page-hinkley']) {
    const settings: Settings = name === 'adwin' ? {} : { threshold: 5 };
    for (const [from, to, direction] of [
      [0, 1, 'up'],
      [1, 0, 'down'],
    ] as const) {
      const detector = createDetector(name, settings);
      const verdicts = Array.from({ length: 600 }, (_, i) => detector.update(i < 300 ? from : to));
      assert.equal(verdicts.find(v => v.drift)?.direction, direction, name);
    }
  }
});

test('settings are checked by name and range, values by kind', () => {
  assert.ok(DETECTOR_NAMES.includes('adwin') && DETECTOR_NAMES.includes('page-hinkley'));
  assert.throws(() => createDetector('guess'), /adwin, page-hinkley/);
  assert.throws(() => createDetector('adwin', { delta: 2 }), /between 0 and 1/);
  assert.throws(() => createDetector('adwin', { clocks: 2 }), /not a setting/);
  assert.throws(() => createDetector('page-hinkley', { mode: 'sideways' }), /both, up, down/);
  assert.throws(() => createDetector('page-hinkley', { threshold: 'x' }), /above 0/);
  assert.throws(() => createDetector('adwin').update(Number.NaN), /finite/);
  assert.throws(() => createDetector('ddm').update(3), /0 to 1/);
  assert.throws(() => createDetector('adwin').restore({ name: 'ddm' }), /not a stored state/);
});

const stream = new SecureStream(new Uint8Array(32).fill(9));
const normals = (n: number, mean: number): number[] => [...stream.normal(n)].map(x => x + mean);
const run = (alarm: Alarm, values: number[]) => values.map(x => alarm.update(x)).filter(s => s.change !== null);

test('an alarm is raised when a loss rises, stays raised, and is cleared once the loss is back', () => {
  const alarm = new Alarm({ detector: 'adwin', higherIsWorse: true });
  alarm.seed(normals(500, 3));
  assert.deepEqual(run(alarm, normals(600, 3)), []);
  const raised = run(alarm, normals(1500, 4));
  assert.deepEqual(
    raised.map(s => s.change),
    ['raised'],
    'latched: once, not again',
  );
  assert.ok(alarm.status().figure! > alarm.status().reference! + 0.5);
  assert.deepEqual(
    run(alarm, normals(600, 3)).map(s => s.change),
    ['cleared'],
  );
});

test('an improvement raises nothing, whichever way is better', () => {
  for (const higherIsWorse of [true, false]) {
    const alarm = new Alarm({ detector: 'adwin', higherIsWorse });
    alarm.seed(normals(500, 0));
    const better = normals(1000, higherIsWorse ? -1.5 : 1.5).map(x => alarm.update(x));
    assert.ok(
      better.some(s => s.drift),
      'the detector sees it',
    );
    assert.ok(better.every(s => !s.raised));
    // Worse than the better state, but still no worse than the reference: not an alarm either.
    assert.deepEqual(run(alarm, normals(800, higherIsWorse ? -0.3 : 0.3)), []);
  }
});

test('a score that falls raises within a hundred values of the change; a promotion clears', () => {
  const alarm = new Alarm({ detector: 'adwin', higherIsWorse: false });
  const coin = (n: number, p: number): number[] => Array.from({ length: n }, () => (stream.uniform() < p ? 1 : 0));
  alarm.seed(coin(400, 0.9));
  assert.deepEqual(run(alarm, coin(200, 0.9)), []);
  const statuses = coin(100, 0.4).map(x => alarm.update(x));
  assert.ok(statuses.at(-1)!.raised);
  alarm.seed(coin(400, 0.85));
  assert.equal(alarm.status().raised, false);
  assert.deepEqual(run(alarm, coin(300, 0.85)), []);
});

test('a holdout sorted by label is not drift; without a seed the first window is the reference', () => {
  const sorted = [...normals(300, 0), ...normals(300, 5)];
  const alarm = new Alarm({ detector: 'adwin', higherIsWorse: true });
  alarm.seed(sorted);
  assert.ok(Math.abs(alarm.status().reference! - 2.5) < 0.3);
  const unseeded = new Alarm({ detector: 'adwin', higherIsWorse: true, window: 100 });
  run(unseeded, normals(400, 1));
  assert.ok(Math.abs(unseeded.status().reference! - 1) < 0.4);
  assert.deepEqual(
    run(unseeded, normals(400, 3)).map(s => s.change),
    ['raised'],
  );
});

test('a restored alarm keeps what it knew', () => {
  const options = { detector: 'page-hinkley', settings: { threshold: 10 }, higherIsWorse: true };
  const alarm = new Alarm(options);
  alarm.seed(normals(300, 0));
  run(alarm, normals(300, 2));
  assert.ok(alarm.status().raised);
  const copy = new Alarm(options);
  copy.restore(JSON.parse(JSON.stringify(alarm.snapshot())));
  assert.deepEqual(copy.status(), alarm.status());
  const values = normals(200, 0);
  assert.deepEqual(run(copy, values), run(alarm, values));
  assert.throws(() => copy.restore({}), /not a stored alarm/);
});
