import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import test from 'node:test';
import { type Tensor, tensorflow } from '../../src/learn/tensor/backend.ts';
import { createOptimizer, type OptimizerSettings } from '../../src/learn/training/optimizer.ts';

/** test/golden/make_optimizer.py */
const golden = JSON.parse(readFileSync(new URL('../golden/optimizer.json', import.meta.url), 'utf8')) as {
  shape: [number, number];
  start: number[];
  gradients: number[][];
  rates: number[];
  changes: Record<string, number[]>;
};

const settings: Record<string, OptimizerSettings> = {
  adam: { kind: 'adam', learningRate: 1e-2 },
  adamw: { kind: 'adam', learningRate: 1e-2, betas: [0.8, 0.95], epsilon: 1e-6, weightDecay: 0.1 },
  sgd: { kind: 'sgd', learningRate: 1e-3 },
  momentum: { kind: 'sgd', learningRate: 1e-3, momentum: 0.9 },
};

for (const [name, own] of Object.entries(settings)) {
  test(`${name}: ten updates from given gradients, from 1e-10 to 100 and zero, equal PyTorch's in float64`, () => {
    const tf = tensorflow();
    const before = tf.memory().numTensors;
    let value: Tensor = tf.tensor(golden.start, golden.shape);
    const parameters = {
      keys: () => ['w'],
      get: () => value,
      set: (_: string, next: Tensor) => {
        value.dispose();
        value = next;
      },
    };
    const optimizer = createOptimizer(own);
    golden.gradients.forEach((numbers, step) => {
      const gradient = tf.tensor(numbers, golden.shape);
      optimizer.step(parameters, new Map([['w', gradient]]), golden.rates[step]);
      gradient.dispose();
    });
    const found = value.dataSync();
    golden.changes[name]!.forEach((change, i) => {
      const off = Math.abs(found[i]! - golden.start[i]! - change);
      // Ten roundings of the weight itself, and float32 in the change.
      const allowed = 10 * 2 ** -24 * Math.abs(golden.start[i]!) + 2e-6 * Math.abs(change);
      assert.ok(off <= allowed, `number ${i}: off by ${off} of a change of ${change}`);
    });
    value.dispose();
    optimizer.dispose();
    assert.equal(tf.memory().numTensors, before);
  });
}
