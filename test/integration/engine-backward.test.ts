import assert from 'node:assert/strict';
import test from 'node:test';
import { loadEngineAdapter, loadEngineModel } from '../../src/learn/model/engine/model.ts';
import { disposeGradients, type Gradients } from '../../src/learn/model/engine/sinks.ts';
import {
  clippedUnitGradients,
  type Example,
  HiddenCache,
  meanGradient,
  parameterOf,
  type Trainable,
} from '../../src/learn/model/engine/units.ts';
import { tensorflow } from '../../src/learn/tensor/backend.ts';
import {
  engineGolden,
  type GoldenCase,
  goldenAdapter,
  relativeError,
  unpack,
  weightSource,
} from '../support/engine-golden.ts';

const examples: Example[] = engineGolden.sequences.map(tokens => ({ tokens }));
const units = engineGolden.units.map(unit => unit.map(i => examples[i]!));
const load = (golden: GoldenCase) => loadEngineModel({ config: golden.config, weights: weightSource(golden.weights) });
const abadi = (bound: number) => (norm: number) => Math.min(1, bound / (norm + 1e-6));

function trainable(keys: Iterable<string>, rest: Partial<Trainable> = {}): Trainable {
  return { keys: new Set(keys), size: 1000, from: 0, vocabulary: false, small: true, ...rest };
}

function assertEqual(found: Gradients, expected: GoldenCase['gradients'], tolerance = 1e-4): void {
  assert.deepEqual([...found.keys()].sort(), Object.keys(expected).sort());
  for (const [key, packed] of Object.entries(expected)) {
    const { data, shape } = unpack(packed);
    assert.deepEqual(found.get(key)!.shape, shape, key);
    const error = relativeError(found.get(key)!.dataSync() as Float32Array, data);
    assert.ok(error < tolerance, `${key}: relative error ${error}`);
  }
}

for (const [name, golden] of Object.entries(engineGolden.cases)) {
  test(`${name}: every gradient equals PyTorch's, whatever the microbatch`, async () => {
    const model = load(golden);
    const all = trainable(model.parameterNames(), { vocabulary: true, small: false });
    for (const maxTokens of [4, 20, 1000]) {
      const { gradients, nll, tokens } = await meanGradient(model, examples, all, { maxTokens });
      assertEqual(gradients, golden.gradients);
      assert.equal(tokens, 18);
      assert.ok(Math.abs(nll - golden.nll.reduce((a, b) => a + b)) < 1e-3);
      disposeGradients(gradients);
    }
    model.dispose();
  });

  test(`${name}: LoRA gradients equal PyTorch's`, async () => {
    const model = load(golden);
    const adapter = loadEngineAdapter(model, goldenAdapter(golden.lora));
    const { gradients } = await meanGradient(
      model,
      examples,
      trainable(Object.keys(golden.lora.gradients), { adapter }),
      {
        maxTokens: 1000,
      },
    );
    assertEqual(gradients, golden.lora.gradients);
    disposeGradients(gradients);
    adapter.dispose();
    model.dispose();
  });

  test(`${name}: unit norms and clipped sums equal a loop over units in PyTorch`, async () => {
    const tf = tensorflow();
    const model = load(golden);
    const adapter = loadEngineAdapter(model, goldenAdapter(golden.lora));
    const cases: [GoldenCase['fullUnits'], Trainable][] = [
      [golden.fullUnits, trainable(model.parameterNames(), { vocabulary: true, small: false })],
      [golden.normUnits, trainable(Object.keys(golden.normUnits.clipped), { from: 1 })],
      [golden.lora.units, trainable(Object.keys(golden.lora.units.clipped), { adapter })],
    ];
    const held = (bytes: number) => new HiddenCache(bytes, units.flat(), golden.config.hidden, 20);
    for (const [expected, what] of cases) {
      for (const cache of what.from > 0 ? [undefined, held(1e6), held(300)] : [undefined]) {
        let before: number | undefined;
        for (const maxTokens of [1000, 20, 4, 1000]) {
          const found = await clippedUnitGradients(model, units, what, abadi(expected.bound), { maxTokens, cache });
          expected.norms.forEach((norm, u) => {
            assert.ok(
              Math.abs(found.norms[u]! - norm) < 1e-5 * norm,
              `norm of unit ${u}: ${found.norms[u]}, not ${norm}`,
            );
          });
          assertEqual(found.gradients, expected.clipped);
          disposeGradients(found.gradients);
          if (maxTokens === 4) before = tf.memory().numTensors;
        }
        assert.equal(tf.memory().numTensors, before);
      }
    }
    adapter.dispose();
    model.dispose();
  });
}

test('a unit that is not finite, or has nothing to score, adds nothing', async () => {
  const golden = engineGolden.cases.tied!;
  const keys = Object.keys(golden.normUnits.clipped);
  const options = { maxTokens: 1000 };
  const clip = abadi(golden.normUnits.bound);
  // The embedding of token 31 is not a number: only units that read it are affected, as the head is a matrix of its own.
  const weights = weightSource(golden.weights);
  const table = weights.read('model.embed_tokens.weight');
  table.data.fill(Number.NaN, 31 * 16);
  const broken = loadEngineModel({
    config: { ...golden.config, tied: false },
    weights: {
      names: () => [...weights.names(), 'lm_head.weight'],
      shape: name => weights.shape(name === 'lm_head.weight' ? 'model.embed_tokens.weight' : name),
      read: name => {
        if (name === 'model.embed_tokens.weight') return table;
        return weights.read(name === 'lm_head.weight' ? 'model.embed_tokens.weight' : name);
      },
    },
  });
  const healthy: Example[] = [{ tokens: [3, 17, 5] }];
  const nan: Example[] = [{ tokens: [31, 2, 2] }];
  for (const small of [true, false]) {
    const what = trainable(keys, { from: 1, small });
    const together = await clippedUnitGradients(broken, [healthy, nan, [{ tokens: [7] }], []], what, clip, options);
    const alone = await clippedUnitGradients(broken, [healthy], what, clip, options);
    assert.ok(Number.isNaN(together.norms[1]));
    for (const key of keys) {
      const [a, b] = [together, alone].map(r => r.gradients.get(key)!.dataSync() as Float32Array);
      assert.ok(relativeError(a!, b!) < 1e-5, key);
    }
    const none = await clippedUnitGradients(broken, [], what, clip, options);
    for (const key of keys) {
      assert.deepEqual(none.gradients.get(key)!.shape, parameterOf(broken, undefined, key).shape);
      assert.ok(
        none.gradients
          .get(key)!
          .dataSync()
          .every(value => value === 0),
      );
    }
    for (const result of [together, alone, none]) disposeGradients(result.gradients);
  }
  broken.dispose();
});

test('a masked example scores the chosen tokens only', async () => {
  const golden = engineGolden.cases.tied!;
  const model = load(golden);
  const keys = trainable(['model.norm.weight'], { from: 2 });
  const tokens = [3, 17, 5, 29];
  const mask = [false, false, false, true];
  const masked = await meanGradient(model, [{ tokens, mask }], keys, { maxTokens: 100 });
  assert.equal(masked.tokens, 1);
  const whole = await meanGradient(model, [{ tokens }], keys, { maxTokens: 100 });
  const shorter = await meanGradient(model, [{ tokens: tokens.slice(0, 3) }], keys, { maxTokens: 100 });
  const sum = (r: typeof whole) => Array.from(r.gradients.get('model.norm.weight')!.dataSync(), v => v * r.tokens);
  const expected = Float32Array.from(sum(whole), (v, i) => v - sum(shorter)[i]!);
  assert.ok(relativeError(Float32Array.from(sum(masked)), expected) < 1e-4);
  model.dispose();
});
