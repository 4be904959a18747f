import assert from 'node:assert/strict';
import test from 'node:test';
import { progressLines } from '../../src/cli/train-progress.ts';
import { checkMemory, memoryNeed, parameterCount } from '../../src/learn/training/memory.ts';

const SMOLLM2 = {
  ...{ vocabSize: 49152, hidden: 576, layers: 30, heads: 9, kvHeads: 3, headDim: 64, ffn: Array(30).fill(1536) },
  ...{ contextLength: 8192, ropeTheta: 1e5, rmsEps: 1e-5, tied: true, attentionBias: false },
};

test('parameters are counted as they are', () => {
  assert.equal(parameterCount(SMOLLM2), 134_515_008);
  assert.equal(parameterCount({ ...SMOLLM2, tied: false }), 134_515_008 + 49152 * 576);
});

test('memory is foreseen by method, and refused with figures', () => {
  const at = { sequence: 128, isPrivate: true };
  const need = (kind: 'full' | 'norms') =>
    memoryNeed(SMOLLM2, kind === 'full' ? { kind } : { kind, layers: 6 }, at).total;
  assert.ok(need('full') > 2 * need('norms'));
  assert.ok(memoryNeed(SMOLLM2, { kind: 'full' }, { ...at, sequence: 8192 }).activations > 5e9);
  checkMemory(memoryNeed(SMOLLM2, { kind: 'norms', layers: 6 }, at), 3e9);
  assert.throws(
    () => checkMemory(memoryNeed(SMOLLM2, { kind: 'full' }, at), 3e9),
    (error: Error) => {
      assert.match(error.message, /needs about \d+ MB of memory \(weights 539 MB, .*\), and 3000 MB are free/);
      return (error as { field?: string }).field === 'memory';
    },
  );
});

test('progress: speed, loss and what it is, epsilon so far, time left', () => {
  const lines: string[] = [];
  const say = progressLines(
    { mechanisms: [{ noise_multiplier: 1, sample_rate: 1, steps: 4 }], delta: 1e-5, target: 8, maxSeconds: 100 },
    line => lines.push(line),
  );
  const at = { steps: 4, drawn: 3, tokens: 30, tokensPerSecond: 123.4 };
  say({ ...at, step: 1, loss: 2.5, secondsElapsed: 60 });
  say({ ...at, step: 2, loss: 2, secondsElapsed: 61 });
  say({ ...at, step: 4, loss: undefined, secondsElapsed: 62 });
  assert.deepEqual(lines, [
    'step 1/4  loss 2.5000 (not covered by the noise)  123 tokens/s  epsilon 4.377 of 8  40 s left\n',
    'step 4/4  loss - (not covered by the noise)  123 tokens/s  epsilon 9.997 of 8  0 s left\n',
  ]);
});
