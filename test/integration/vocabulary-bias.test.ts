import assert from 'node:assert/strict';
import test from 'node:test';
import { loadEngineModel, scoreTokens } from '../../src/learn/model/engine/index.ts';
import { makePlan } from '../../src/learn/privacy/index.ts';
import { denseBias, vocabularyBias } from '../../src/learn/training/vocabulary-bias.ts';
import { engineGolden, weightSource } from '../support/engine-golden.ts';

const golden = engineGolden.cases.tied!;
const load = () => loadEngineModel({ config: golden.config, weights: weightSource(golden.weights) });
/** Text that uses five tokens of 32 only. */
const texts = Array.from({ length: 200 }, (_, i) =>
  Array.from({ length: 6 }, (_, t) => (i * 3 + t * t + (i % 7) * t) % 5),
);
const units = texts.map(tokens => [{ tokens }]);
const nll = (model: ReturnType<typeof load>, tokenBias?: Float32Array) =>
  scoreTokens(model, texts, { tokenBias }).reduce((sum, s) => sum + s.nll, 0) / (texts.length * 5);
const plan = (noiseMultiplier: number, rest = {}) =>
  makePlan({
    ...{ units: 200, expectedUnits: 200, steps: 1, delta: 1e-5, unit: 'user', noiseMultiplier },
    ...{ clip: { kind: 'flat', bound: 1 }, ...rest },
  });

test('the bias moves probability to the tokens that the text uses, with and without noise', async () => {
  const model = load();
  const base = nll(model);
  for (const p of [undefined, plan(0.6)]) {
    const bias = await vocabularyBias({ model, units, plan: p, maxTokens: 100 });
    const byToken = new Map(bias);
    const used = [0, 1, 2, 3, 4].map(token => byToken.get(token) ?? 0);
    const unused = [...byToken].filter(([token]) => token > 4).map(([, value]) => value);
    assert.ok(unused.length > 5 && Math.max(...unused) < Math.min(...used), 'used tokens are raised over all others');
    const better = nll(model, denseBias(bias, 32));
    assert.ok(better < base - 1, `${base} -> ${better}`);
  }
  model.dispose();
});

test('units are clipped as a whole: microbatches and how a unit is cut do not matter, a giant unit counts as one', async () => {
  const model = load();
  const quiet = () => plan(1e-6, { units: 21, expectedUnits: 21 });
  const few = units.slice(0, 20);
  const giant = Array.from({ length: 60 }, (_, i) => ({ tokens: [30, 31, 30, 31, 30, (i % 2) + 30] }));
  const one = await vocabularyBias({ model, units: [...few, giant], plan: quiet(), maxTokens: 1000 });
  const other = await vocabularyBias({ model, units: [...few, giant], plan: quiet(), maxTokens: 13 });
  one.forEach(([token, value], i) => {
    assert.equal(other[i]![0], token);
    assert.ok(Math.abs(other[i]![1] - value) < 1e-2);
  });
  // 60 texts of one user weigh as one unit of 21, so their tokens stay behind those of the twenty others.
  const values = new Map(one);
  assert.ok(values.get(30)! < values.get(1)! + 1);
  model.dispose();
});

test('a plan that is not one release over every unit is refused', async () => {
  const model = load();
  await assert.rejects(vocabularyBias({ model, units, plan: plan(1, { steps: 2 }) }), { field: 'plan' });
  await assert.rejects(vocabularyBias({ model, units, plan: plan(1, { sampleRate: 0.5 }) }), { field: 'plan' });
  await assert.rejects(vocabularyBias({ model, units: units.slice(1), plan: plan(1) }), { field: 'units' });
  model.dispose();
});
