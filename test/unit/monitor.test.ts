import assert from 'node:assert/strict';
import test from 'node:test';
import { sample, shuffled } from '../../src/loop/monitor/sample.ts';
import { quantile, ServingStats } from '../../src/loop/monitor/serving.ts';
import { Live, type LiveState } from '../../src/loop/monitor/state.ts';

const sizes = { window: 200, minimum: 50 };

/** Numbers from 0 to 1, the same in every run (Park and Miller's minimal standard generator). */
function numbers(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state * 48_271) % 2_147_483_647;
    return state / 2_147_483_647;
  };
}

/** Labelled rows of which about `accuracy` are predicted right. */
function label(next: () => number, accuracy: number) {
  const name = next() < 0.5 ? 'a' : 'b';
  const right = next() < accuracy;
  return { task: 't', label: name, predicted: right ? name : name === 'a' ? 'b' : 'a' };
}
const document = (next: () => number, mean: number) => {
  const tokens = 20 + Math.floor(next() * 100);
  return { nll: tokens * (mean + (next() - 0.5)), tokens, bytes: tokens * 4 };
};

test('F1 falls: one alarm, latched, cleared only when the figure is back', () => {
  const next = numbers(7);
  const live = Live.begin(3, sizes, undefined);
  for (let i = 0; i < 400; i++) assert.equal(live.label(label(next, 0.9)), null);
  const before = live.figures();
  assert.ok(before.f1.value! > 0.85 && before.f1.reference! > 0.8, JSON.stringify(before.f1));
  assert.equal(before.f1.alarm, false);

  const raised: number[] = [];
  for (let i = 0; i < 300; i++) {
    const change = live.label(label(next, 0.4));
    if (change) {
      assert.deepEqual(change, { kind: 'raised', detector: 'adwin' });
      raised.push(i);
    }
    if (raised.length > 0) assert.equal(live.figures().f1.alarm, true, 'latched');
  }
  assert.equal(raised.length, 1);
  assert.ok(raised[0]! < 96, `raised after ${raised[0]} rows`);
  assert.ok(live.figures().f1.value! < 0.6);

  let cleared: number | undefined;
  for (let i = 0; i < 400; i++) if (live.label(label(next, 0.92))?.kind === 'cleared') cleared ??= i;
  assert.ok(cleared !== undefined && cleared > 100, `cleared after ${cleared} rows`);
  assert.equal(live.figures().f1.alarm, false);
});

test('getting better raises nothing', () => {
  const next = numbers(11);
  const live = Live.begin(3, sizes, undefined);
  for (let i = 0; i < 300; i++) live.label(label(next, 0.5));
  for (let i = 0; i < 500; i++) assert.equal(live.label(label(next, 0.98)), null);
  for (let i = 0; i < 300; i++) live.document(document(next, 4));
  for (let i = 0; i < 500; i++) assert.equal(live.document(document(next, 3)), null);
});

test('perplexity is weighted by tokens, and its rise raises the alarm', () => {
  const next = numbers(5);
  const live = Live.begin(3, sizes, undefined);
  let nll = 0;
  let tokens = 0;
  for (let i = 0; i < 150; i++) {
    const row = document(next, 3);
    nll += row.nll;
    tokens += row.tokens;
    live.document(row);
  }
  const figures = live.figures().perplexity;
  assert.ok(Math.abs(figures.value! - Math.exp(nll / tokens)) < 1e-9);
  assert.ok(Math.abs(figures.bits_per_byte! - nll / tokens / Math.LN2 / 4) < 1e-9);
  assert.ok(figures.standard_error! > 0 && figures.standard_error! < 1);
  const changes = Array.from({ length: 150 }, () => live.document(document(next, 3.6))?.kind).filter(Boolean);
  assert.deepEqual(changes, ['raised']);
  assert.ok(live.figures().perplexity.value! > live.figures().perplexity.reference! * 1.2);
});

test('a seeded version has its reference at once and is compared with it', () => {
  const next = numbers(9);
  const errors = Array.from({ length: 200 }, (_, i) => (i % 10 === 0 ? 1 : 0));
  const documents = Array.from({ length: 100 }, () => ({ nll: 100, tokens: 40 }));
  const live = Live.begin(4, sizes, { errors, f1: 0.9, documents });
  const { f1, perplexity } = live.figures();
  assert.deepEqual([f1.value, f1.reference, perplexity.value], [null, 0.9, null]);
  assert.ok(Math.abs(perplexity.reference! - Math.exp(2.5)) < 1e-12);
  const changes = Array.from({ length: 128 }, () => live.label(label(next, 0.4))?.kind).filter(Boolean);
  assert.deepEqual(changes, ['raised'], 'worse than on its own held-out rows from the first live row on');
  // Too few held-out rows are no reference.
  assert.equal(Live.begin(4, sizes, { errors: [0, 1], f1: 0.5, documents: [] }).figures().f1.reference, null);
});

test('stored and restored at any point, it goes on at the same bit', () => {
  const run = (restoreEvery: number): { state: LiveState; changes: string[] } => {
    const next = numbers(21);
    let live = Live.begin(3, sizes, undefined);
    const changes: string[] = [];
    for (let i = 0; i < 700; i++) {
      const change = live.label(label(next, i < 400 ? 0.9 : 0.5));
      const other = live.document(document(next, i < 400 ? 3 : 3.5));
      if (change) changes.push(`${i} f1 ${change.kind}`);
      if (other) changes.push(`${i} perplexity ${other.kind}`);
      if (i % restoreEvery === 0) live = Live.restore(JSON.parse(JSON.stringify(live.snapshot())), sizes);
    }
    return { state: live.snapshot(), changes };
  };
  const whole = run(1_000_000);
  const parts = run(7);
  assert.deepEqual(parts.changes, whole.changes);
  assert.ok(
    whole.changes.some(c => c.includes('f1 raised')) && whole.changes.some(c => c.includes('perplexity raised')),
  );
  assert.deepEqual(parts.state.perplexity, whole.state.perplexity);
  assert.deepEqual(parts.state.f1.watch, whole.state.f1.watch);
  assert.deepEqual(parts.state.f1.window, whole.state.f1.window);
});

test('a sample is uniform, without repetition and in order', () => {
  const items = Array.from({ length: 10 }, (_, i) => i);
  assert.deepEqual(sample(items, 10), items);
  assert.deepEqual(sample(items, 99), items);
  const hits = new Array(10).fill(0);
  for (let i = 0; i < 3000; i++) {
    const some = sample(items, 3);
    assert.deepEqual(
      [...new Set(some)].sort((a, b) => a - b),
      some,
    );
    assert.equal(some.length, 3);
    for (const item of some) hits[item]++;
  }
  // Each is in 30% of the samples: 900 +- 25; five standard deviations.
  for (const n of hits) assert.ok(Math.abs(n - 900) < 126, `${hits}`);
  assert.deepEqual(
    shuffled(items).sort((a, b) => a - b),
    items,
  );
});

test('serving figures over a sliding window in bounded memory', () => {
  let now = 0;
  const stats = new ServingStats({ windowMs: 1000, most: 500, now: () => now });
  assert.deepEqual(Object.values(stats.figures()), [null, null, null, null]);
  for (let i = 1; i <= 100; i++) stats.record({ latencyMs: i, firstTokenMs: i / 2, tokens: 3 });
  stats.record({ latencyMs: 9999, error: 'internal' });
  const figures = stats.figures();
  assert.equal(figures['latency.p50_ms'], 50.5);
  assert.ok(Math.abs(figures['latency.p95_ms']! - 95.05) < 1e-9);
  assert.ok(Math.abs(figures['latency.first_token_p95_ms']! - 47.525) < 1e-9);
  assert.equal(figures['errors.rate'], 1 / 101);
  now = 1001;
  assert.equal(stats.figures()['latency.p50_ms'], null);
  for (let i = 0; i < 20_000; i++) stats.record({ latencyMs: 7 });
  stats.record({ latencyMs: 8 });
  assert.equal(stats.figures()['latency.p50_ms'], 7);
  assert.equal(quantile([1, 2, 3, 4], 0.5), 2.5);
});
