import assert from 'node:assert/strict';
import test from 'node:test';
import type { Worker } from 'node:worker_threads';
import { keyFor, streamFor } from '../../src/learn/privacy/noise.ts';
import { expectNoise, isAhead, takeNoise } from '../../src/learn/privacy/noise-ahead.ts';

const seed = new Uint8Array(32).fill(9);
const part = (purpose: string) => ({ key: keyFor(seed, purpose), n: 600_000, std: 2 });
const soon = () => new Promise(resolve => setTimeout(resolve, 50));

test('a thread that has ended is given up with a warning, and the numbers are the same', async () => {
  const warnings: string[] = [];
  process.on('warning', warning => warnings.push(warning.message));
  // The reader of TypeScript may have a thread of its own, which is told of first.
  const workers: Worker[] = [];
  process.on('worker', worker => workers.push(worker));
  expectNoise([part('a'), part('b')]);
  for (let i = 0; i < 400 && !isAhead(part('b')); i++) await soon();
  await workers.at(-1)!.terminate();
  for (let i = 0; i < 20 && warnings.length === 0; i++) await soon();
  assert.ok(
    warnings.some(warning => /its own thread failed \(it ended/.test(warning)),
    warnings.join(),
  );
  for (const purpose of ['a', 'b', 'c']) {
    expectNoise([part(purpose), part(`${purpose} too`)]);
    assert.ok(!isAhead(part(purpose)));
    assert.deepEqual(takeNoise(part(purpose)), streamFor(seed, purpose).normal(600_000, 2));
  }
  expectNoise([]);
});
