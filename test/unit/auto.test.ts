import assert from 'node:assert/strict';
import test from 'node:test';
import { epsilon as accounted, noiseMultiplier } from '../../src/learn/privacy/accountant.ts';
import { type AutoRequest, chooseMethod, histogramNoise, shapeOf, signalOf } from '../../src/learn/training/auto.ts';

/** SmolLM2-135M. */
const shape = { hidden: 576, layers: 30, kvWidth: 192, ffn: 1536, parameters: 134_515_008 };
const choose = (units: number, epsilon: number | 'none', change: Partial<AutoRequest> = {}) =>
  chooseMethod({ data: 'documents', units, epsilon, delta: 1e-5, shape, ...change });

test('few units or little epsilon: the histogram alone; more: norm scales, then LoRA; all weights for very many', () => {
  const method = (units: number, epsilon: number) => choose(units, epsilon).method;
  assert.deepEqual([method(100, 8), method(400, 2), method(1000, 1)], ['bias', 'bias', 'bias']);
  assert.deepEqual([method(1000, 8), method(3000, 8), method(9003, 2)], ['norms', 'norms', 'norms']);
  assert.equal(method(1e7, 8), 'full');
  const rank = (units: number) => ['bias', 'norms', 'lora', 'full'].indexOf(method(units, 8));
  const order = [50, 200, 800, 3000, 12_000, 50_000, 200_000, 1e6, 1e7].map(rank);
  assert.deepEqual(
    order,
    [...order].sort((a, b) => a - b),
  );
});

test('it says why: what was chosen, at which share, what was passed over, by which figures', () => {
  const { why, candidates, histogramShare } = choose(1000, 8);
  assert.match(why, /^auto: a noised histogram of tokens \(\d+% of the budget\), then norm scales\./);
  assert.match(why, /1000 units at epsilon 8, delta 0\.00001/);
  for (const passed of ['the histogram alone', 'LoRA', 'all weights']) assert.ok(why.includes(passed), passed);
  assert.ok(histogramShare > 0 && histogramShare < 1);
  assert.deepEqual(
    candidates.map(c => [c.method, c.parameters]),
    [
      ['bias', 0],
      ['norms', 13 * 576],
      ['lora', 4 * 6 * (2 * 1152 + 2 * 768 + 3 * 2112)],
      ['full', 134_515_008],
    ],
  );
  assert.equal(choose(1000, 'none').method, 'lora');
  assert.equal(choose(1000, 8, { data: 'feedback' }).method, 'head');
  assert.throws(() => choose(0, 8), { field: 'units' });
});

test('the two parts spend what one would: shares are shares of mu squared', () => {
  const delta = 1e-5;
  const histogram = { noise_multiplier: histogramNoise(8, delta, 0.4), sample_rate: 1, steps: 1 };
  const steps = 10;
  const noise_multiplier = noiseMultiplier({ epsilon: 8, delta, sampleRate: 1, steps, prior: [histogram] });
  const spent = accounted([histogram, { noise_multiplier, sample_rate: 1, steps }], delta);
  assert.ok(spent <= 8 && spent > 7.995, `${spent}`);
  const mu2 = 1 / histogram.noise_multiplier ** 2;
  assert.ok(Math.abs(mu2 / (mu2 + steps / noise_multiplier ** 2) - 0.4) < 1e-3);
});

test('the signal of steps grows with the units counted and falls with the noise', () => {
  const noise = { noiseMultiplier: 2, sampleRate: 0.5, steps: 8 };
  const at = (units: number, sigma = 2) => signalOf('norms', shape, units, { ...noise, noiseMultiplier: sigma });
  assert.ok(at(1000) > at(100) && at(1000, 4) < at(1000) && at(-3) === 0);
  const exact = signalOf('norms', shape, 1000, { noiseMultiplier: 2, sampleRate: 1, steps: 4 });
  assert.ok(Math.abs(exact - (0.072 * 1000) / Math.sqrt(7488)) < 1e-9);
});

test('the shape of a model whose feed-forward widths differ is their mean', () => {
  const config = { hidden: 8, layers: 2, kvHeads: 2, headDim: 4, ffn: [10, 20] } as never;
  assert.deepEqual(shapeOf(config, 7), { hidden: 8, layers: 2, kvWidth: 8, ffn: 15, parameters: 7 });
});
