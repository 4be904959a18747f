import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { loadEngineModel } from '../../src/learn/model/engine/model.ts';
import type { Example } from '../../src/learn/model/engine/units.ts';
import { makePlan } from '../../src/learn/privacy/index.ts';
import { tensorflow } from '../../src/learn/tensor/backend.ts';
import { CheckpointClock, readState } from '../../src/learn/training/checkpoint.ts';
import { destroySeal, isSealed, seal, unseal } from '../../src/learn/training/seal.ts';
import { type TrainRequest, type TrainResult, trainToEnd } from '../../src/learn/training/trainer.ts';
import { engineGolden, weightSource } from '../support/engine-golden.ts';

const load = () => {
  const { config, weights } = engineGolden.cases.tied!;
  return loadEngineModel({ config, weights: weightSource(weights) });
};
const seed = new Uint8Array(32).fill(5);
const units: Example[][] = Array.from({ length: 30 }, (_, u) =>
  Array.from({ length: 1 + (u % 3) }, (_, e) => ({
    tokens: Array.from({ length: 4 + ((u + e) % 7) }, (_, t) => (u + 3 * e + t) % 32),
  })),
);
const poisson = () =>
  makePlan({
    ...{
      units: 30,
      expectedUnits: 30,
      sampleRate: 0.4,
      steps: 9,
      delta: 1e-5,
      noiseMultiplier: 0.8,
      unit: 'user',
      seed,
    },
    clip: { kind: 'auto-s' },
  });
const scratch = (t: { after(fn: () => void): void }) => {
  const folder = mkdtempSync(join(tmpdir(), 'learnd-checkpoint-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
};
type Asked = Omit<TrainRequest, 'model' | 'units' | 'seed'>;
const cases: Record<string, () => Asked> = {
  'LoRA on minibatches with momentum of Adam': () => ({ method: { kind: 'lora', rank: 2 }, steps: 9, batch: 7 }),
  'upper LoRA over cached states, averaged': () => ({
    method: { kind: 'lora', rank: 1, layers: 1 },
    ...{ steps: 9, batch: 16, ema: 0.9 },
  }),
  'private norm scales on Poisson samples': () => ({ method: { kind: 'norms', layers: 1 }, plan: poisson(), ema: 0.5 }),
  'private full training': () => ({
    method: { kind: 'full' },
    plan: poisson(),
    optimizer: { kind: 'sgd', learningRate: 0.01, momentum: 0.9 },
  }),
  'private LoRA under an adaptive bound': () => ({
    method: { kind: 'lora', rank: 1 },
    plan: makePlan({
      ...{
        units: 30,
        expectedUnits: 30,
        sampleRate: 0.4,
        steps: 9,
        delta: 1e-5,
        noiseMultiplier: 0.8,
        unit: 'user',
        seed,
      },
      clip: { kind: 'quantile', initial: 0.5 },
    }),
  }),
  'full training without noise': () => ({
    method: { kind: 'full' },
    ...{ steps: 9, batch: 5, schedule: { kind: 'cosine', warmup: 2, floor: 0.1 } },
  }),
};
const bytesOf = ({ adapter, weights }: TrainResult): [string, Buffer][] =>
  [
    ...(weights ??
      new Map(
        [...adapter!.pairs].flatMap(
          ([name, p]) =>
            [
              [`${name}.a`, p.a],
              [`${name}.b`, p.b],
            ] as const,
        ),
      )),
  ].map(([name, { data }]) => [name, Buffer.from(data.buffer, data.byteOffset, data.byteLength)]);

for (const [name, asked] of Object.entries(cases)) {
  test(`${name}: interrupted twice, resumed from files, the same bytes come out`, async t => {
    const path = join(scratch(t), 'state.safetensors');
    const whole = load();
    const expected = await trainToEnd({ model: whole, units, seed, ...asked() });
    whole.dispose();
    const saved: number[] = [];
    const go = async (until: number): Promise<TrainResult | undefined> => {
      const model = load();
      const stop = new AbortController();
      const checkpoint = { path, everySteps: 3, losses: true, onSaved: (step: number) => saved.push(step) };
      const request = { model, units, seed, ...asked(), checkpoint, resume: true, signal: stop.signal };
      try {
        return await trainToEnd(request, ({ step }) => step === until && stop.abort());
      } catch (error) {
        assert.equal((error as { code?: string }).code, 'canceled');
        return undefined;
      } finally {
        model.dispose();
      }
    };
    // The signal stops it in step 5, whose predecessor is saved; then in step 8.
    assert.equal(await go(4), undefined);
    const { step, released } = readState(path);
    assert.equal(step, 4);
    assert.deepEqual(released, asked().plan?.mechanisms.map(mechanism => ({ ...mechanism, steps: 4 })) ?? []);
    assert.equal(statSync(path).mode & 0o777, 0o600);
    assert.equal(await go(7), undefined);
    const before = tensorflow().memory().numTensors;
    const result = await go(99);
    assert.deepEqual(saved, [3, 4, 7]);
    assert.equal(result!.steps, 9);
    assert.deepEqual(result!.losses, expected.losses);
    assert.deepEqual(bytesOf(result!), bytesOf(expected));
    assert.equal(tensorflow().memory().numTensors, before);
  });
}

test('a killed step is replayed from the state before it: the same release', async t => {
  const path = join(scratch(t), 'state.safetensors');
  const asked = { units, seed, method: { kind: 'norms', layers: 1 } as const };
  const run = async (more: Partial<TrainRequest>, dropAfter?: number) => {
    const model = load();
    const noise = poisson();
    const steps: number[] = [];
    const plan = Object.freeze({
      ...noise,
      meanNoise: (step: number, n: number, part?: string) => {
        steps.push(step);
        return noise.meanNoise(step, n, part);
      },
    });
    const result = await trainToEnd({ model, plan, ...asked, ...more }, ({ step }) => {
      if (step === dropAfter) throw new Error('killed');
    }).catch((error: Error) => assert.equal(error.message, 'killed'));
    model.dispose();
    return { result, steps: [...new Set(steps)] };
  };
  const checkpoint = { path, everySteps: 5 };
  const killed = await run({ checkpoint }, 7);
  assert.deepEqual(killed.steps, [0, 1, 2, 3, 4, 5, 6]);
  assert.equal(readState(path).step, 5, 'steps 6 and 7 are lost');
  assert.deepEqual(readState(path).losses, [], 'losses of private training stay out of it');
  const resumed = await run({ checkpoint, resume: true });
  assert.deepEqual(resumed.steps, [5, 6, 7, 8]);
  const { result } = await run({});
  assert.deepEqual(bytesOf(resumed.result as TrainResult), bytesOf(result as TrainResult));
});

test('no time left: what has been learned so far comes out without another step', async t => {
  const path = join(scratch(t), 'state.safetensors');
  const asked = { units, seed, method: { kind: 'norms', layers: 1 }, steps: 9, batch: 8 } as const;
  const checkpoint = { path, everySteps: 4 };
  const run = async (more: Partial<TrainRequest>) => {
    const model = load();
    const result = await trainToEnd({ model, ...asked, ...more });
    model.dispose();
    return result;
  };
  await run({ checkpoint });
  assert.equal(readState(path).step, 8);
  const taken = await run({ checkpoint, resume: true, maxSeconds: 0 });
  assert.deepEqual([taken.steps, taken.outOfTime], [8, true]);
  assert.deepEqual(bytesOf(taken), bytesOf(await run({ steps: 8 })));
});

test('a checkpoint of another training, of another file, or without a seed is refused', async t => {
  const path = join(scratch(t), 'state.safetensors');
  const model = load();
  const request = { model, units, seed, method: { kind: 'lora', rank: 1 } as const, steps: 2, batch: 4 };
  const checkpoint = { path, everySteps: 1 };
  await trainToEnd({ ...request, checkpoint });
  const other: Partial<TrainRequest>[] = [
    { batch: 5 },
    { steps: 3 },
    { seed: new Uint8Array(32).fill(6) },
    { units: units.slice(1) },
    { method: { kind: 'lora', rank: 1, alpha: 7 } },
    { optimizer: { kind: 'sgd', learningRate: 0.1 } },
    { ema: 0.5 },
    { units: units.map((unit, u) => (u === 3 ? unit.map(e => ({ ...e, mask: e.tokens.map(() => false) })) : unit)) },
  ];
  for (const change of other)
    await assert.rejects(trainToEnd({ ...request, ...change, checkpoint, resume: true }), { code: 'conflict' });
  await trainToEnd({ ...request, checkpoint, resume: true });
  await assert.rejects(trainToEnd({ ...request, seed: undefined as never, checkpoint }), { field: 'seed' });
  writeFileSync(path, readFileSync(path).subarray(0, 200));
  await assert.rejects(trainToEnd({ ...request, checkpoint, resume: true }), { code: 'corrupt' });
  model.dispose();
});

test('an average of iterates is what comes out', async () => {
  const run = async (ema?: number) => {
    const model = load();
    const result = await trainToEnd({
      ...{ model, units, seed, method: { kind: 'norms', layers: 1 }, steps: 3, batch: 8 },
      ...(ema === undefined ? {} : { ema }),
    });
    const kept = model.parameter('model.norm.weight').dataSync().slice();
    model.dispose();
    return { weights: result.weights!.get('model.norm.weight')!.data, kept };
  };
  const [last, none, averaged] = [await run(), await run(0), await run(0.99)];
  assert.deepEqual(none, last);
  assert.notDeepEqual(averaged.weights, last.weights);
  assert.deepEqual(averaged.weights, averaged.kept, 'the model holds it, too');
  await assert.rejects(run(1), { field: 'ema' });
});

test('when to save: by steps, by time, and not so often that writing takes over', () => {
  const bySteps = new CheckpointClock({ path: '', everySteps: 4, everySeconds: 1e9 }, 2, 0);
  assert.deepEqual(
    [3, 5, 6].map(step => bySteps.due(step, 0)),
    [false, false, true],
  );
  const byTime = new CheckpointClock({ path: '' }, 0, 10);
  assert.deepEqual(
    [60, 70].map(now => byTime.due(1, now)),
    [false, true],
  );
  byTime.saved(1, 70, 80);
  assert.deepEqual(
    [200, 280].map(now => byTime.due(2, now)),
    [false, true],
    '10 s of writing: every 200 s',
  );
});

test('a seal is readable by its owner alone, once, and leaves nothing', async t => {
  const folder = join(scratch(t), 'checkpoint');
  assert.throws(() => unseal(folder), { code: 'not_found' });
  await seal(folder, { seed, request: { method: 'norms' } });
  assert.equal(statSync(folder).mode & 0o777, 0o700);
  assert.equal(statSync(join(folder, 'sealed.json')).mode & 0o777, 0o600);
  assert.deepEqual(unseal(folder), { seed: Buffer.from(seed), request: { method: 'norms' } });
  await assert.rejects(seal(folder, { seed, request: {} }), { code: 'conflict' });
  await destroySeal(folder);
  assert.ok(!isSealed(folder) && !existsSync(folder));
  await destroySeal(folder);
  await seal(folder, { seed, request: {} });
  writeFileSync(join(folder, 'sealed.json'), '{"version":1,"seed":"ab"}');
  assert.throws(() => unseal(folder), { code: 'corrupt' });
});
