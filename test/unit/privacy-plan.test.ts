import assert from 'node:assert/strict';
import test from 'node:test';
import { epsilon } from '../../src/learn/privacy/accountant.ts';
import { poissonSample, SecureStream, streamFor } from '../../src/learn/privacy/noise.ts';
import { makePlan, type PlanRequest } from '../../src/learn/privacy/plan.ts';
import { logNormalCdf } from '../../src/learn/privacy/special.ts';

const seed = new Uint8Array(32).fill(7);
const request: PlanRequest = {
  units: 280,
  expectedUnits: 300,
  sampleRate: 0.25,
  steps: 12,
  epsilon: 4,
  delta: 1e-6,
  clip: { kind: 'flat', bound: 0.5 },
  unit: 'user',
  seed,
};

test('normals: Kolmogorov-Smirnov distance, moments and tail of a million', () => {
  const n = 1_000_000;
  const xs = new SecureStream().normal(n, 2).sort();
  let sum = 0;
  let squares = 0;
  let distance = 0;
  xs.forEach((x, i) => {
    sum += x;
    squares += x * x;
    if (i % 16 === 0) distance = Math.max(distance, Math.abs(Math.exp(logNormalCdf(x / 2)) - i / n));
  });
  assert.ok(Math.abs(sum / n) < 0.012, 'mean, 6 standard errors');
  assert.ok(Math.abs(Math.sqrt(squares / n) / 2 - 1) < 0.0045, 'deviation, 6 standard errors');
  assert.ok(distance < 0.0023, `distance ${distance}: a chance of 1e-4`);
  assert.ok(xs[n - 1]! > 2 * 4 && xs[0]! < -2 * 4);
});

test('neighbouring normals, and pairs of streams, are uncorrelated', () => {
  const xs = new SecureStream().normal(400_000);
  const ys = new SecureStream().normal(400_000);
  const correlation = (f: (i: number) => number): number => {
    let sum = 0;
    for (let i = 0; i < 399_999; i++) sum += f(i);
    return Math.abs(sum / 400_000);
  };
  assert.ok(correlation(i => xs[i]! * xs[i + 1]!) < 0.0095);
  assert.ok(correlation(i => (xs[i]! ** 2 - 1) * (xs[i + 1]! ** 2 - 1)) < 0.02);
  assert.ok(correlation(i => xs[i]! * ys[i]!) < 0.0095);
});

test('a key replays its stream; another key or purpose gives another; keys come from the system otherwise', () => {
  assert.deepEqual(new SecureStream(seed).normal(1001), new SecureStream(seed).normal(1001));
  assert.deepEqual(streamFor(seed, 'a').normal(50), streamFor(seed, 'a').normal(50));
  assert.notDeepEqual(streamFor(seed, 'a').normal(50), streamFor(seed, 'b').normal(50));
  assert.notDeepEqual(new SecureStream().normal(50), new SecureStream().normal(50));
  assert.throws(() => new SecureStream(new Uint8Array(16)), /32 bytes/);
});

test('Poisson sampling: each unit on its own, with the rate asked for, empty samples included', () => {
  const stream = new SecureStream(seed);
  const sizes = Array.from({ length: 2000 }, () => poissonSample(100, 0.03, stream).length);
  const mean = sizes.reduce((a, b) => a + b) / 2000;
  const variance = sizes.reduce((a, b) => a + (b - mean) ** 2, 0) / 2000;
  assert.ok(Math.abs(mean - 3) < 0.2, `mean ${mean}`);
  assert.ok(Math.abs(variance - 2.91) < 0.5, `variance ${variance}: binomial, not fixed`);
  assert.ok(sizes.includes(0));
  assert.deepEqual(poissonSample(0, 0.5, stream), []);
  assert.equal(poissonSample(500, 1, stream).length, 500);
});

test('a plan binds sampler, clipping, noise, divisor and cost together', () => {
  const plan = makePlan(request);
  assert.deepEqual(plan.mechanisms, [{ noise_multiplier: plan.noiseMultiplier, sample_rate: 0.25, steps: 12 }]);
  assert.equal(plan.epsilon, epsilon(plan.mechanisms, 1e-6));
  assert.ok(plan.epsilon <= 4 && plan.epsilon > 3.99);
  assert.equal(plan.sensitivity, 0.5);
  const noise = plan.noise(3, 200_000);
  const deviation = Math.sqrt(noise.reduce((s, x) => s + x * x, 0) / noise.length);
  assert.ok(
    Math.abs(deviation / (plan.noiseMultiplier * 0.5) - 1) < 0.01,
    'noise for the sum: multiplier times sensitivity',
  );
  assert.ok(Object.isFrozen(plan) && Object.isFrozen(plan.mechanisms) && Object.isFrozen(plan.mechanisms[0]));
  assert.ok(Object.isFrozen(plan.clip));
});

test('the divisor is public: neither the private count nor the units drawn move it', () => {
  assert.equal(makePlan(request).divisor, 75);
  assert.equal(makePlan({ ...request, units: 5 }).divisor, 75);
  assert.equal(makePlan({ ...request, units: 5 }).noiseMultiplier, makePlan(request).noiseMultiplier);
});

test('an empty view, an empty sample: the step and its noise are there all the same', () => {
  const plan = makePlan({ ...request, units: 0 });
  assert.deepEqual(plan.sample(0), []);
  assert.ok(plan.noise(0, 10).every(x => x !== 0));
});

test('clipping: never above the sensitivity, whatever the norm; what is not finite counts as absent', () => {
  for (const clip of [{ kind: 'flat', bound: 0.5 } as const, { kind: 'auto-s' } as const]) {
    const plan = makePlan({ ...request, clip });
    for (const norm of [0, 1e-12, 1e-3, 0.49, 0.5, 0.7, 3, 1e8, 1e300])
      assert.ok(plan.clipFactor(norm) * norm <= plan.sensitivity, `${clip.kind} ${norm}`);
    for (const norm of [Number.NaN, Number.POSITIVE_INFINITY, -1]) assert.equal(plan.clipFactor(norm), 0);
  }
  assert.equal(makePlan(request).clipFactor(0.2), 1, 'flat leaves the small alone');
  const auto = makePlan({ ...request, clip: { kind: 'auto-s' } });
  assert.ok(auto.clipFactor(0.2) * 0.2 > 0.9, 'AUTO-S brings all to nearly 1');
});

test('steps beyond those accounted for, and the same noise twice, are refused', () => {
  const plan = makePlan(request);
  assert.throws(() => plan.sample(12), /not one of the 12/);
  assert.throws(() => plan.noise(-1, 3), /not one of the 12/);
  plan.noise(0, 3, 'weight');
  plan.noise(0, 3, 'bias');
  assert.throws(() => plan.noise(0, 3, 'weight'), /handed out already/);
});

test('a seed replays samples and noise after a crash; noise differs by step and part', () => {
  const a = makePlan(request);
  const b = makePlan({ ...request, epsilon: undefined, noiseMultiplier: a.noiseMultiplier });
  assert.deepEqual(a.sample(5), a.sample(5));
  assert.deepEqual(a.sample(5), b.sample(5));
  assert.notDeepEqual(a.sample(5), a.sample(6));
  assert.deepEqual(a.noise(5, 9), b.noise(5, 9));
  assert.notDeepEqual(a.noise(6, 9), b.noise(7, 9));
  assert.notDeepEqual(a.noise(8, 9, 'x'), b.noise(8, 9, 'y'));
  const other = makePlan({ ...request, seed: undefined, epsilon: undefined, noiseMultiplier: 1 });
  assert.notDeepEqual(other.noise(0, 9), makePlan({ ...request, seed: undefined }).noise(0, 9));
});

test('full batch takes every unit every step; prior releases raise the noise', () => {
  const full = makePlan({ ...request, sampleRate: 1, units: 4 });
  assert.deepEqual(full.sample(0), [0, 1, 2, 3]);
  assert.equal(full.divisor, 300);
  const prior = full.mechanisms;
  const next = makePlan({ ...request, epsilon: 6, prior });
  assert.ok(next.epsilon <= 6 && next.ownEpsilon < next.epsilon);
  assert.ok(next.noiseMultiplier > makePlan({ ...request, epsilon: 6 }).noiseMultiplier);
  assert.throws(() => makePlan({ ...request, epsilon: 3, prior }), { code: 'budget_exhausted' });
});

test('a request that does not fit together is refused by field', () => {
  const bad: [Partial<PlanRequest>, RegExp][] = [
    [{ units: -1 }, /units/],
    [{ expectedUnits: 0 }, /expectedUnits/],
    [{ sampleRate: 1.5 }, /sampleRate/],
    [{ sampleRate: 0 }, /sampleRate/],
    [{ steps: 0 }, /steps/],
    [{ epsilon: undefined }, /epsilon/],
    [{ noiseMultiplier: 1 }, /epsilon/],
    [{ clip: { kind: 'flat', bound: 0 } }, /clip/],
    [{ seed: new Uint8Array(3) }, /seed/],
    [{ delta: 0 }, /delta/],
  ];
  for (const [change, field] of bad)
    assert.throws(
      () => makePlan({ ...request, ...change }),
      (error: Error & { field?: string }) => field.test(error.field ?? ''),
    );
});
