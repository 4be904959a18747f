import assert from 'node:assert/strict';
import test from 'node:test';
import { makePlan, SecureStream } from '../../src/learn/privacy/index.ts';
import {
  type HeadExample,
  LEARNING_RATE,
  learningRate,
  probabilities,
  standardised,
  standardOf,
  startFrom,
  trainHead,
  whitening,
} from '../../src/learn/worker/jobs/head-training.ts';

const stream = new SecureStream(new Uint8Array(32));
const vectors = (n: number, hidden: number): Float32Array[] => Array.from({ length: n }, () => stream.normal(hidden));
const norm = (v: ArrayLike<number>): number => Math.sqrt(Array.from(v).reduce((sum, x) => sum + x * x, 0));
const near = (a: number, b: number, tolerance: number): void =>
  assert.ok(Math.abs(a - b) <= tolerance, `${a} is not within ${tolerance} of ${b}`);
const always = { after: async () => undefined, enough: () => false };

test('standardised features have length 1; the empty text stays at zero', () => {
  const features = vectors(50, 8);
  const standard = standardOf(features);
  for (const f of features) near(norm(standardised(f, standard)), 1, 1e-5);
  assert.equal(norm(standardised(new Float32Array(8), standard)), 0);
});

test('whitening folds into the weights, and public text then varies alike in all directions', () => {
  const mixed = vectors(400, 6).map(v => v.map((x, i) => x * (i + 1) + (i > 0 ? 0.5 * v[i - 1]! : 0)));
  const white = whitening(mixed, 1e-6);
  const weight = stream.normal(3 * 6);
  const folded = white.fold(weight);
  for (const x of mixed.slice(0, 20)) {
    const y = white.apply(x);
    for (let row = 0; row < 3; row++) {
      const dot = (w: Float32Array, v: Float32Array): number =>
        v.reduce((sum, value, i) => sum + w[row * 6 + i]! * value, 0);
      near(dot(folded, x), dot(weight, y), 1e-4);
    }
  }
  const y = mixed.map(x => white.apply(x));
  const moment = (i: number, j: number): number => y.reduce((sum, v) => sum + v[i]! * v[j]!, 0) / y.length;
  for (let i = 0; i < 6; i++) for (let j = 0; j < 6; j++) near(moment(i, j) / moment(0, 0), i === j ? 1 : 0, 2e-2);
  near(y.reduce((sum, v) => sum + norm(v), 0) / y.length, 1, 1e-3);
});

const units = (n: number): HeadExample[][] =>
  Array.from({ length: n }, (_, u) =>
    vectors(1 + (u % 4), 5).map((x, i) => ({ x: x.map(v => v / norm(x)), label: (u + i) % 3 })),
  );
const start = startFrom([vectors(2, 5), vectors(2, 5), vectors(2, 5)]);

test('one unit more or less moves a step by at most the sensitivity, however many examples it has', async () => {
  const many = units(12);
  const loud: HeadExample[] = Array.from({ length: 50 }, () => ({ x: Float32Array.of(9, 0, 0, 0, 0), label: 2 }));
  const run = (of: HeadExample[][]) =>
    trainHead(
      start,
      of,
      makePlan({
        units: of.length,
        expectedUnits: 10,
        steps: 1,
        delta: 1e-6,
        noiseMultiplier: 1,
        clip: { kind: 'auto-s' },
        unit: 'user',
        seed: new Uint8Array(32).fill(3),
      }),
      always,
    );
  const without = await run(many);
  const withLoud = await run([...many, loud]);
  const moved = norm(without.weight.map((w, i) => w - withLoud.weight[i]!));
  // The rate of this plan: noise 1, one step, ten expected units.
  const bound = 10 / 10;
  assert.ok(moved <= bound && moved > 0.9 * bound, `${moved} of at most ${bound}`);
});

test('without clipping in the way a step is the gradient of the mean loss of each unit', async () => {
  const many = units(6);
  const plan = makePlan({
    units: 6,
    expectedUnits: 6,
    steps: 1,
    delta: 1e-6,
    noiseMultiplier: 1e-9,
    clip: { kind: 'flat', bound: 1e6 },
    unit: 'user',
  });
  const { weight } = await trainHead(start, many, plan, always);
  const loss = (w: Float32Array): number =>
    many.reduce(
      (sum, unit) =>
        sum + unit.reduce((of, { x, label }) => of - Math.log(probabilities(w, undefined, x)[label]!), 0) / unit.length,
      0,
    ) / many.length;
  for (const i of [0, 4, 7, 14]) {
    const at = (d: number): Float32Array => start.weight.map((w, j) => (j === i ? w + d : w));
    const slope = (loss(at(1e-2)) - loss(at(-1e-2))) / 2e-2;
    near((start.weight[i]! - weight[i]!) / LEARNING_RATE, slope, 2e-3);
  }
});

test('the rate falls with the noise so that a logit is not drowned, and comes from public numbers alone', () => {
  const rate = (noiseMultiplier: number, steps: number, units: number): number =>
    learningRate(
      makePlan({
        units,
        expectedUnits: 100,
        steps,
        delta: 1e-6,
        noiseMultiplier,
        clip: { kind: 'auto-s' },
        unit: 'user',
      }),
    );
  assert.equal(rate(0.1, 4, 50), LEARNING_RATE);
  near(rate(10, 16, 50), 2.5, 1e-9);
  assert.equal(rate(10, 16, 50), rate(10, 16, 5000));
});

test('the same plan replays; nobody drawn is a step of noise all the same', async () => {
  const request = {
    units: 0,
    expectedUnits: 4,
    steps: 3,
    delta: 1e-6,
    noiseMultiplier: 2,
    clip: { kind: 'auto-s' as const },
    unit: 'user' as const,
    seed: new Uint8Array(32).fill(9),
  };
  const a = await trainHead(start, [], makePlan(request), always);
  const b = await trainHead(start, [], makePlan(request), always);
  assert.deepEqual(a, b);
  assert.ok(norm(a.weight.map((w, i) => w - start.weight[i]!)) > 1);
  let n = 0;
  const cut = await trainHead(start, [], makePlan(request), { ...always, enough: () => ++n >= 2 });
  assert.equal(cut.steps, 2);
});
