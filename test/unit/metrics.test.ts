import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import test from 'node:test';
import {
  type ClassScore,
  DecayedF1,
  PercentileWindow,
  percentile,
  perplexity,
  WindowedF1,
  weightedF1,
} from '../../src/learn/metrics/index.ts';

const close = (a: number | null, b: number, tolerance = 1e-9): void => {
  assert.ok(a !== null && Math.abs(a - b) <= tolerance, `${a} is not ${b}`);
};

interface Case {
  true: string[];
  predicted: string[];
  weighted_f1: number;
  per_class: Record<string, ClassScore>;
}
const { cases } = JSON.parse(readFileSync(new URL('../golden/f1.json', import.meta.url), 'utf8')) as { cases: Case[] };

test('weighted F1 and every class equal scikit-learn 1.9.1', () => {
  for (const c of cases) {
    const { weighted, perClass } = weightedF1(c.true, c.predicted);
    close(weighted, c.weighted_f1);
    assert.deepEqual(Object.keys(perClass), Object.keys(c.per_class));
    for (const [label, score] of Object.entries(c.per_class))
      for (const key of ['precision', 'recall', 'f1', 'support'] as const) close(perClass[label]![key], score[key]);
  }
});

test('nothing to score is null, unequal lengths are refused, odd labels are labels', () => {
  assert.equal(weightedF1([], []).weighted, null);
  assert.throws(() => weightedF1(['a'], []), /0 labels for 1/);
  const odd = weightedF1(['__proto__', 'constructor'], ['__proto__', 'x']);
  close(odd.weighted, 0.5);
  assert.ok(Object.keys(odd.perClass).includes('__proto__'));
});

test('a window scores its last items, as if they were all', () => {
  const { true: truth, predicted } = cases.at(-1)!;
  const window = new WindowedF1(50);
  assert.equal(window.value, null);
  truth.forEach((label, i) => {
    window.update(label, predicted[i]!);
  });
  close(window.value, weightedF1(truth.slice(-50), predicted.slice(-50)).weighted!);
  assert.deepEqual(window.scores().perClass, weightedF1(truth.slice(-50), predicted.slice(-50)).perClass);
  const copy = new WindowedF1(50);
  copy.restore(JSON.parse(JSON.stringify(window.snapshot())));
  assert.deepEqual(copy.scores(), window.scores());
});

test('decayed F1 weighs items by 2^(-age / half-life), over any length', () => {
  const decayed = new DecayedF1(10);
  assert.equal(decayed.value, null);
  // Two classes, the older half all right, the newer half all wrong in one class.
  const items = Array.from({ length: 40 }, (_, i) => (i < 20 ? ['a', 'a'] : i % 2 ? ['a', 'b'] : ['b', 'b']));
  for (const [truth, predicted] of items) decayed.update(truth!, predicted!);
  const weight = (keep: (t: string, p: string) => boolean): number =>
    items.reduce((sum, [t, p], i) => sum + (keep(t!, p!) ? 2 ** (-(39 - i) / 10) : 0), 0);
  const f1 = (label: string): number =>
    (2 * weight((t, p) => t === label && p === label)) / (weight(t => t === label) + weight((_, p) => p === label));
  const a = weight(t => t === 'a');
  const b = weight(t => t === 'b');
  close(decayed.value, (f1('a') * a + f1('b') * b) / (a + b));
  close(decayed.scores().perClass.a!.support, a);
  const copy = new DecayedF1(10);
  copy.restore(JSON.parse(JSON.stringify(decayed.snapshot())));
  close(copy.value, decayed.value!);
  for (let i = 0; i < 20_000; i++) decayed.update('a', 'a');
  close(decayed.value, 1, 1e-6);
  close(decayed.scores().perClass.a!.support, 1 / (1 - 2 ** -0.1), 1e-6);
});

test('perplexity is weighted by tokens; bits per byte and standard errors follow', () => {
  const result = perplexity([
    { nll: 6, tokens: 3, bytes: 20 },
    { nll: 1, tokens: 1, bytes: 5 },
    { nll: 12, tokens: 4, bytes: 15 },
    { nll: 0, tokens: 0, bytes: 1 },
  ]);
  close(result.nll, 19 / 8);
  close(result.perplexity, Math.exp(19 / 8));
  close(result.bitsPerByte, 19 / Math.LN2 / 41);
  assert.deepEqual([result.tokens, result.bytes, result.texts], [8, 41, 3]);
  const residuals = [6 - 3 * 2.375, 1 - 2.375, 12 - 4 * 2.375];
  const error = Math.sqrt((residuals.reduce((s, r) => s + r * r, 0) * 3) / 2) / 8;
  close(result.nllError, error);
  close(result.perplexityError, error * Math.exp(2.375));
  const none = perplexity([{ nll: 0, tokens: 0, bytes: 3 }]);
  assert.deepEqual([none.perplexity, none.nll, none.bitsPerByte], [null, null, null]);
  assert.equal(perplexity([{ nll: 2, tokens: 1, bytes: 3 }]).nllError, null);
});

test('percentiles interpolate as numpy does, over the last values only', () => {
  assert.equal(percentile([], 50), null);
  assert.equal(percentile([3], 95), 3);
  close(percentile([4, 1, 3, 2], 50), 2.5);
  close(percentile([1, 2, 3, 4, 10], 95), 8.8);
  const window = new PercentileWindow(4);
  assert.equal(window.p50, null);
  for (const x of [100, 100, 1, 2, 3, 4]) window.add(x);
  assert.deepEqual([window.p50, window.count], [2.5, 4]);
  close(window.p95, 3.85);
  assert.throws(() => window.add(Number.NaN), /finite/);
  assert.throws(() => percentile([1], 101), /0 to 100/);
});
