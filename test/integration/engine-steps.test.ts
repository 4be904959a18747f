import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import test from 'node:test';
import { loadEngineModel } from '../../src/learn/model/engine/model.ts';
import { disposeGradients } from '../../src/learn/model/engine/sinks.ts';
import { clippedUnitGradients, type Example, type Trainable } from '../../src/learn/model/engine/units.ts';
import { SecureStream } from '../../src/learn/privacy/noise.ts';
import { tensorflow } from '../../src/learn/tensor/backend.ts';
import { createOptimizer, type OptimizerSettings } from '../../src/learn/training/optimizer.ts';
import { prepareTraining } from '../../src/learn/training/trainables.ts';
import { trainToEnd } from '../../src/learn/training/trainer.ts';
import { engineGolden, type GoldenCase, relativeError, unpack, weightSource } from '../support/engine-golden.ts';

interface Golden {
  steps: number;
  cases: Record<string, { adamw: GoldenCase['adamw3']; sgd: GoldenCase['adamw3'] }>;
  opacus: GoldenCase['fullUnits'];
}
const golden: Golden = JSON.parse(readFileSync(new URL('../golden/engine-dp.json', import.meta.url), 'utf8'));
const load = (name: string) => {
  const { config, weights } = engineGolden.cases[name]!;
  return loadEngineModel({ config, weights: weightSource(weights) });
};
const examples: Example[] = engineGolden.sequences.map(tokens => ({ tokens }));

const optimizers: Record<'adamw' | 'sgd', OptimizerSettings> = {
  adamw: { kind: 'adam', learningRate: 0.01, betas: [0.9, 0.95], weightDecay: 0.1 },
  sgd: { kind: 'sgd', learningRate: 0.05, momentum: 0.9 },
};
for (const name of Object.keys(golden.cases)) {
  for (const kind of ['adamw', 'sgd'] as const) {
    test(`${name}: ten steps of ${kind} equal PyTorch's`, async () => {
      const model = load(name);
      const result = await trainToEnd({
        model,
        method: { kind: 'full' },
        units: examples.map(example => [example]),
        ...{ steps: golden.steps, batch: examples.length, seed: new Uint8Array(32).fill(7) },
        optimizer: optimizers[kind],
      });
      for (const [key, packed] of Object.entries(golden.cases[name]![kind])) {
        // Adam divides by the gradient's own size: where a gradient is nearly zero, rounding shows in full.
        const error = relativeError(result.weights!.get(key)!.data, unpack(packed).data);
        assert.ok(error < (kind === 'sgd' ? 1e-4 : 2e-3), `${key}: ${error}`);
      }
      model.dispose();
    });
  }
}

test("per-example norms and the clipped sum equal Opacus' (hooks and ghost clipping) on the same weights", async () => {
  const model = load('untied-bias');
  const keys = new Set(model.parameterNames());
  const trainable: Trainable = { keys, size: 0, from: 0, vocabulary: true, small: false };
  const { norms, bound, clipped } = golden.opacus;
  const clip = (norm: number) => Math.min(1, bound / (norm + 1e-6));
  for (const maxTokens of [10, 20, 1000]) {
    const units = examples.map(example => [example]);
    const found = await clippedUnitGradients(model, units, trainable, clip, { maxTokens });
    norms.forEach((norm, u) => {
      assert.ok(Math.abs(found.norms[u]! - norm) < 1e-5 * norm, `norm ${u}: ${found.norms[u]}, Opacus ${norm}`);
    });
    for (const [key, packed] of Object.entries(clipped)) {
      const error = relativeError(found.gradients.get(key)!.dataSync() as Float32Array, unpack(packed).data);
      assert.ok(error < 2e-5, `${key}: ${error}`);
    }
    disposeGradients(found.gradients);
  }
  model.dispose();
});

test('fifty private steps of each method leave no tensor behind and memory as it was', async () => {
  const tf = tensorflow();
  for (const method of [{ kind: 'full' }, { kind: 'lora', rank: 2 }] as const) {
    const model = load('tied');
    const stream = new SecureStream(new Uint8Array(32).fill(3));
    const training = prepareTraining(model, method, stream);
    const optimizer = createOptimizer({ kind: 'adam', learningRate: 1e-3 });
    const step = async () => {
      const units = examples.map(example => [example]);
      const { gradients } = await clippedUnitGradients(model, units, training.trainable, norm => 1 / (norm + 0.01), {
        maxTokens: 20,
      });
      for (const [key, sum] of gradients) {
        const noisy = tf.tidy(() => tf.keep(tf.add(sum, tf.tensor(stream.normal(sum.size, 0.1), sum.shape))));
        sum.dispose();
        gradients.set(key, noisy);
      }
      optimizer.step(training.parameters, gradients);
      disposeGradients(gradients);
    };
    for (let i = 0; i < 5; i++) await step();
    const { numTensors, numBytes } = tf.memory();
    for (let i = 0; i < 50; i++) await step();
    assert.equal(tf.memory().numTensors, numTensors, method.kind);
    assert.equal(tf.memory().numBytes, numBytes, method.kind);
    optimizer.dispose();
    training.dispose();
    model.dispose();
  }
});
