import assert from 'node:assert/strict';
import test from 'node:test';
import { epsilon, type Mechanism } from '../../src/learn/privacy/accountant.ts';
import { joined } from '../../src/learn/privacy/mechanism.ts';
import { SecureStream } from '../../src/learn/privacy/noise.ts';
import { type DpPlan, makePlan, type PlanRequest } from '../../src/learn/privacy/plan.ts';
import { type HeadUnit, trainHead } from '../../src/learn/training/head.ts';

const seed = new Uint8Array(32).fill(9);
const request: PlanRequest = {
  units: 400,
  expectedUnits: 400,
  sampleRate: 0.5,
  steps: 60,
  noiseMultiplier: 1.2,
  delta: 1e-6,
  clip: { kind: 'quantile', initial: 0.1 },
  unit: 'user',
  seed,
};
const near = (found: number, expected: number, tolerance: number, what: string): void =>
  assert.ok(Math.abs(found - expected) <= tolerance, `${what}: ${found} is not ${expected} to ${tolerance}`);

test('an adaptive bound costs what a fixed one costs: the gradients pay for the count with more noise', () => {
  const plan = makePlan(request);
  const fixed = makePlan({ ...request, clip: { kind: 'flat', bound: 0.1 } });
  assert.equal(plan.epsilon, fixed.epsilon);
  // arXiv 1905.03871, theorem 1: z_g = (z^-2 - (2 sigma_b)^-2)^(-1/2), sigma_b a 20th of the 200 expected units.
  const expected = (1.2 ** -2 - (2 * 10) ** -2) ** -0.5;
  near(plan.gradientNoise, expected, 1e-12, 'noise of the gradients');
  assert.ok(plan.gradientNoise > 1.2 && fixed.gradientNoise === 1.2);
  const [mechanism] = plan.mechanisms;
  assert.deepEqual(mechanism, {
    noise_multiplier: 1.2,
    sample_rate: 0.5,
    steps: 60,
    parts: { gradients: plan.gradientNoise, 'norms-below-bound': 20 },
  });
  near(joined(Object.values(mechanism!.parts!)), 1.2, 1e-12, 'together');
  // Another accountant, or a ledger read back, needs nothing but the three numbers.
  const stored = JSON.parse(JSON.stringify(plan.mechanisms)) as Mechanism[];
  assert.equal(epsilon(stored, 1e-6), plan.epsilon);
  assert.equal(
    epsilon([...stored, ...fixed.mechanisms], 1e-6),
    epsilon([{ ...fixed.mechanisms[0]!, steps: 120 }], 1e-6),
  );
});

test('what one unit can change is one Gaussian release of the stated multiplier, whatever its norm and wherever the bound is', () => {
  const plan = makePlan(request);
  for (let step = 0; step < 5; step++) {
    const bound = plan.sensitivity;
    for (const norm of [0, bound / 3, bound, bound * 1.001, 1e9]) {
      const contribution = plan.clipFactor(norm) * norm;
      assert.ok(contribution <= bound);
      const inNoise = (contribution / (plan.gradientNoise * bound)) ** 2 + (0.5 / 10) ** 2;
      assert.ok(inNoise <= 1.2 ** -2 + 1e-12);
    }
    assert.equal(plan.clipFactor(Number.NaN), 0);
    const noise = plan.noise(step, 100_000);
    const deviation = Math.sqrt(noise.reduce((sum, x) => sum + x * x, 0) / noise.length);
    near(deviation / (plan.gradientNoise * bound), 1, 0.015, 'noise follows the bound');
    plan.observe(step, [1, 1, 1]);
  }
});

const norms = (step: number): number[] => {
  const drawn = new SecureStream(new Uint8Array(32).fill(step + 1)).normal(200);
  return Array.from(drawn, x => Math.exp(0.7 * x));
};

test('the bound follows the quantile asked for: noised, so it settles near it and not on it', () => {
  for (const quantile of [0.3, 0.5, 0.8]) {
    const plan = makePlan({ ...request, steps: 200, clip: { kind: 'quantile', initial: 0.1, quantile } });
    const below: number[] = [];
    for (let step = 0; step < 200; step++) {
      const found = norms(step);
      if (step >= 150) below.push(found.filter(norm => norm <= plan.sensitivity).length / found.length);
      plan.noise(step, 1);
      plan.observe(step, found);
    }
    near(below.reduce((a, b) => a + b) / below.length, quantile, 0.03, `share below the bound`);
  }
});

test('the divisor of the share is the expected number of units, never the number drawn', () => {
  const noise = { kind: 'quantile', initial: 1, rate: 1, countNoise: 1e-3 } as const;
  const plan = makePlan({ ...request, noiseMultiplier: 1e-3, clip: noise });
  plan.observe(0, new Array(50).fill(0.5));
  // 50 of 200 expected units below the bound: each moves the share by 1/2 of 1/200 from the middle.
  near(plan.sensitivity, Math.exp((-50 * 0.5) / 200), 1e-4, 'bound');
  plan.observe(1, [Number.NaN, Number.POSITIVE_INFINITY]);
  near(plan.sensitivity, Math.exp((-50 * 0.5) / 200), 1e-4, 'what is not finite counts as absent');
});

function walk(plan: DpPlan, from: number, to: number): number[] {
  const seen: number[] = [];
  for (let step = from; step < to; step++) {
    seen.push(plan.sensitivity, plan.noise(step, 3, 'a')[0]!, plan.sample(step).length);
    plan.observe(step, norms(step));
  }
  return seen;
}

test('the same seed and norms give the same bounds and noise, also from a checkpoint in the middle', () => {
  const whole = walk(makePlan(request), 0, 20);
  assert.deepEqual(walk(makePlan(request), 0, 20), whole);
  assert.notDeepEqual(walk(makePlan({ ...request, seed: new Uint8Array(32).fill(8) }), 0, 20), whole);
  const first = makePlan(request);
  walk(first, 0, 12);
  const state = JSON.parse(JSON.stringify(first.state())) as ReturnType<DpPlan['state']>;
  const second = makePlan(request);
  second.restore(state);
  assert.deepEqual(walk(second, 12, 20), whole.slice(36));
  assert.throws(() => second.restore(state), /handed out noise/);
  assert.throws(() => makePlan(request).restore(undefined), /missing/);
  assert.equal(makePlan({ ...request, clip: { kind: 'auto-s' } }).state(), undefined);
});

test('a bound that is not the step its noise belongs to cannot be used', () => {
  const plan = makePlan(request);
  plan.noise(0, 2);
  assert.throws(() => plan.noise(1, 2), /norms of step 0/);
  plan.observe(0, [1]);
  assert.throws(() => plan.observe(0, [1]), /moved on/);
  assert.throws(() => plan.noise(0, 2, 'late'), /moved on/);
  plan.noise(1, 2);
  assert.throws(() => plan.observe(60, [1]), /not one of the 60/);
});

test('settings that do not fit together are refused by name', () => {
  const bad: [Partial<Extract<PlanRequest['clip'], { kind: 'quantile' }>>, RegExp][] = [
    [{ initial: 0 }, /clip\.initial/],
    [{ quantile: 1 }, /clip\.quantile/],
    [{ rate: -1 }, /clip\.rate/],
    [{ countNoise: Number.NaN }, /clip\.countNoise/],
    [{ countNoise: 0.6 }, /clip\.countNoise/],
  ];
  for (const [change, field] of bad)
    assert.throws(
      () => makePlan({ ...request, clip: { kind: 'quantile', initial: 1, ...change } }),
      (error: Error & { field?: string }) => field.test(error.field ?? ''),
    );
});

test('mechanisms of a kind this version does not count, or whose parts hold less noise than stated, are refused', () => {
  const m = { noise_multiplier: 1.2, sample_rate: 0.5, steps: 6 };
  assert.throws(() => epsilon([{ ...m, kind: 'laplace' as never }], 1e-6), { field: 'kind' });
  assert.throws(() => epsilon([{ ...m, parts: { gradients: 1.2, count: 5 } }], 1e-6), { field: 'parts' });
  assert.equal(epsilon([{ ...m, kind: 'sampled-gaussian' }], 1e-6), epsilon([m], 1e-6));
});

test("a head trained under an adaptive bound: steps in order, the bound moves, the cost is the plan's", async () => {
  const stream = new SecureStream(seed);
  const feature = (label: number): Float32Array => {
    const x = stream.normal(16);
    x[label]! += 3;
    return x;
  };
  const units: HeadUnit[] = Array.from({ length: 60 }, (_, i) => ({
    user: `u${i}`,
    examples: [{ feature: feature(i % 3), label: i % 3 }],
  }));
  const plan = makePlan({
    ...request,
    units: 60,
    expectedUnits: 60,
    sampleRate: 1,
    steps: 10,
    clip: { kind: 'quantile', initial: 0.02 },
  });
  const trained = await trainHead({
    task: 't',
    labels: ['a', 'b', 'c'],
    units,
    publicFeatures: Array.from({ length: 40 }, (_, i) => feature(i % 3)),
    labelFeatures: [0, 1, 2].map(label => [feature(label), feature(label)]),
    privacy: plan,
    layer: 1,
    featuresSha256: '0',
  });
  assert.deepEqual([trained.steps, plan.state()!.step], [10, 10]);
  assert.ok(plan.state()!.bound !== 0.02);
  assert.deepEqual(trained.mechanisms, plan.mechanisms);
});
