import assert from 'node:assert/strict';
import test from 'node:test';
import { loadEngineAdapter, loadEngineModel } from '../../src/learn/model/engine/model.ts';
import { scoreTokens } from '../../src/learn/model/engine/score.ts';
import type { Example } from '../../src/learn/model/engine/units.ts';
import { makePlan } from '../../src/learn/privacy/index.ts';
import { tensorflow } from '../../src/learn/tensor/backend.ts';
import { train, trainToEnd } from '../../src/learn/training/trainer.ts';
import { engineGolden, relativeError, unpack, weightSource } from '../support/engine-golden.ts';

const golden = engineGolden.cases.tied!;
const load = (name = 'tied') => {
  const { config, weights } = engineGolden.cases[name]!;
  return loadEngineModel({ config, weights: weightSource(weights) });
};
const seed = new Uint8Array(32).fill(7);
/** Counting sequences: easy to learn. */
const counting: Example[] = Array.from({ length: 24 }, (_, i) => ({
  tokens: Array.from({ length: 8 }, (_, t) => (i + t) % 32),
}));
const meanNll = (model: ReturnType<typeof load>, options = {}) => {
  const scores = scoreTokens(
    model,
    counting.map(e => e.tokens as number[]),
    options,
  );
  return scores.reduce((sum, s) => sum + s.nll, 0) / scores.reduce((sum, s) => sum + s.tokens, 0);
};

for (const name of Object.keys(engineGolden.cases)) {
  test(`${name}: three steps of full training with AdamW equal PyTorch's`, async () => {
    const model = load(name);
    const result = await trainToEnd({
      model,
      method: { kind: 'full' },
      units: engineGolden.sequences.map(tokens => [{ tokens }]),
      ...{ steps: 3, batch: 3, seed },
      optimizer: { kind: 'adam', learningRate: 0.01, betas: [0.9, 0.95], weightDecay: 0.1 },
    });
    for (const [key, packed] of Object.entries(engineGolden.cases[name]!.adamw3)) {
      // Adam divides by the gradient's own size, so where a gradient is nearly zero rounding shows in full: 1e-3 of the weight.
      assert.ok(relativeError(result.weights!.get(key)!.data, unpack(packed).data) < 1e-3, key);
    }
    assert.equal(result.steps, 3);
    model.dispose();
  });
}

test('LoRA learns, leaves the model as it was, and leaks nothing', async () => {
  const tf = tensorflow();
  const model = load();
  const base = meanNll(model);
  const counts: number[] = [];
  const steps = train({
    model,
    method: { kind: 'lora', rank: 2 },
    units: [counting],
    ...{ steps: 40, batch: 8, seed, maxTokens: 32 },
    optimizer: { kind: 'adam', learningRate: 0.03 },
  });
  const before = tf.memory().numTensors;
  let result = await steps.next();
  while (!result.done) {
    counts.push(tf.memory().numTensors);
    assert.ok(result.value.loss! > 0 && result.value.tokensPerSecond > 0);
    result = await steps.next();
  }
  assert.equal(new Set(counts.slice(1)).size, 1, 'the number of tensors stays the same from step to step');
  const { adapter, losses } = result.value;
  assert.equal(losses.length, 40);
  assert.ok(tf.memory().numTensors <= before + 10, 'the trainer gave back what it made');
  assert.equal(meanNll(model), base);
  const loaded = loadEngineAdapter(model, adapter!);
  const learned = meanNll(model, { adapter: loaded });
  assert.ok(learned < base - 1, `${base} -> ${learned}`);
  loaded.dispose();
  model.dispose();
});

test('the same seed gives the same adapter', async () => {
  const model = load();
  const run = async () => {
    const request = {
      model,
      method: { kind: 'lora', rank: 2, layers: 1 } as const,
      units: [counting],
      steps: 2,
      batch: 4,
      seed,
    };
    const { adapter } = await trainToEnd(request);
    return [...adapter!.pairs.values()].map(({ a, b }) => [...a.data, ...b.data]);
  };
  const [first, second] = [await run(), await run()];
  assert.equal(first.length, 7);
  assert.deepEqual(first, second);
  model.dispose();
});

test('private norm scales: the update is the clipped sum plus noise over the public divisor', async () => {
  const units = counting.map(example => [example]);
  const privacy = { units: 24, expectedUnits: 20, steps: 1, delta: 1e-5, unit: 'user', seed } as const;
  const plan = makePlan({ ...privacy, noiseMultiplier: 0.7, clip: { kind: 'auto-s' } });
  const twin = makePlan({ ...privacy, noiseMultiplier: 0.7, clip: { kind: 'auto-s' } });
  const quiet = makePlan({ ...privacy, noiseMultiplier: 1e-9, clip: { kind: 'auto-s' } });
  const scales = async (p: typeof plan) => {
    const model = load();
    const sgd = { kind: 'sgd', learningRate: 1 } as const;
    const { weights } = await trainToEnd({
      model,
      method: { kind: 'norms', layers: 1 },
      units,
      plan: p,
      optimizer: sgd,
    });
    model.dispose();
    return weights!;
  };
  const [noisy, still] = [await scales(plan), await scales(quiet)];
  assert.deepEqual([...noisy.keys()].length, 3);
  for (const [key, { data }] of noisy) {
    const noise = twin.noise(0, data.length, key);
    const expected = still.get(key)!.data.map((value, i) => value - noise[i]! / 20);
    assert.ok(relativeError(data, expected) < 1e-5, key);
  }
  // Every unit's norm is just below 1, so 24 of them over 20 move the scales by at most 1.2 in all.
  const original = unpack(golden.weights['model.norm.weight']!).data;
  const moved = Math.hypot(...still.get('model.norm.weight')!.data.map((v, i) => v - original[i]!));
  assert.ok(moved > 0 && moved < 1.2);
});

test('private LoRA runs with Poisson samples, empty ones included', async () => {
  const model = load();
  const plan = makePlan({
    ...{
      units: 24,
      expectedUnits: 24,
      sampleRate: 0.02,
      steps: 12,
      delta: 1e-5,
      unit: 'user',
      noiseMultiplier: 1,
      seed,
    },
    clip: { kind: 'flat', bound: 0.1 },
  });
  const drawn: number[] = [];
  const result = await trainToEnd(
    { model, method: { kind: 'lora', rank: 1, layers: 1 }, units: counting.map(e => [e]), plan },
    ({ drawn: n, loss }) => {
      drawn.push(n);
      assert.equal(loss === undefined, n === 0);
    },
  );
  assert.ok(drawn.includes(0) && drawn.some(n => n > 0), `drawn ${drawn}`);
  assert.equal(result.steps, 12);
  assert.ok(result.lastChange > 0);
  model.dispose();
});

test('a token bias takes part in training', async () => {
  const model = load();
  const tokenBias = new Float32Array(32).fill(-30);
  tokenBias[3] = 30;
  const request = {
    model,
    method: { kind: 'norms', layers: 1 } as const,
    units: [[{ tokens: [1, 3] }]],
    steps: 1,
    batch: 1,
  };
  const sgd = { kind: 'sgd', learningRate: 1e-3 } as const;
  // With the bias token 3 is certain, so there is nothing to learn; without, there is.
  await assert.rejects(trainToEnd({ ...request, tokenBias, optimizer: sgd }), /nothing was learned/);
  assert.ok((await trainToEnd({ ...request, optimizer: sgd })).losses[0]! > 1);
  await assert.rejects(trainToEnd({ ...request, tokenBias: new Float32Array(5) }), { field: 'tokenBias' });
  model.dispose();
});

test('cancel, time limit and senseless requests end with a clear result', async () => {
  const model = load();
  const request = { model, method: { kind: 'lora', rank: 2 } as const, units: [counting], steps: 1000, batch: 4 };
  const stop = new AbortController();
  await assert.rejects(
    trainToEnd({ ...request, signal: stop.signal }, ({ step }) => step === 2 && stop.abort()),
    { code: 'canceled' },
  );
  const short = await trainToEnd({ ...request, maxSeconds: 0.05 });
  assert.ok(short.outOfTime && short.steps >= 1 && short.steps < 1000);
  await assert.rejects(trainToEnd({ ...request, steps: 0 }), { field: 'steps' });
  await assert.rejects(trainToEnd({ ...request, method: { kind: 'lora', rank: 0 } }), { field: 'rank' });
  await assert.rejects(trainToEnd({ ...request, method: { kind: 'norms', layers: 3 } }), { field: 'layers' });
  await assert.rejects(trainToEnd({ ...request, units: [[{ tokens: [3] }]] }), { field: 'units' });
  const idle = { kind: 'sgd', learningRate: 1e-30 } as const;
  await assert.rejects(
    trainToEnd({ ...request, method: { kind: 'norms', layers: 1 }, optimizer: idle }),
    /nothing was learned/,
  );
  model.dispose();
});
