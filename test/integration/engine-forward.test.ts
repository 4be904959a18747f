import assert from 'node:assert/strict';
import test from 'node:test';
import { calibrationStatistics } from '../../src/learn/compress/statistics.ts';
import { padBatch } from '../../src/learn/model/engine/batch.ts';
import { forwardTokens } from '../../src/learn/model/engine/forward.ts';
import { headLogits } from '../../src/learn/model/engine/head.ts';
import { loadEngineAdapter, loadEngineModel } from '../../src/learn/model/engine/model.ts';
import { hiddenStates, scoreTokens } from '../../src/learn/model/engine/score.ts';
import { tensorflow } from '../../src/learn/tensor/backend.ts';
import { engineGolden, goldenAdapter, relativeError, unpack, weightSource } from '../support/engine-golden.ts';

for (const [name, golden] of Object.entries(engineGolden.cases)) {
  const load = () => loadEngineModel({ config: golden.config, weights: weightSource(golden.weights) });
  const { sequences } = engineGolden;

  test(`${name}: logits equal PyTorch's, padding or not`, () => {
    const model = load();
    const batch = padBatch(sequences, model.config);
    const hidden = forwardTokens(model, batch);
    sequences.forEach((sequence, b) => {
      const rows = Int32Array.from(sequence, (_, t) => b * batch.length + t);
      const logits = headLogits(model, hidden, rows);
      assert.ok(relativeError(logits.dataSync() as Float32Array, unpack(golden.logits[b]!).data) < 1e-5);
      logits.dispose();
    });
    hidden.dispose();
    model.dispose();
  });

  test(`${name}: scores equal PyTorch's and leave no tensor behind`, () => {
    const tf = tensorflow();
    const model = load();
    const adapter = loadEngineAdapter(model, goldenAdapter(golden.lora));
    for (const maxTokensPerBatch of [1, 16, 1024]) {
      scoreTokens(model, sequences, { maxTokensPerBatch }).forEach((score, i) => {
        assert.ok(Math.abs(score.nll - golden.nll[i]!) < 1e-4 * golden.nll[i]!);
        assert.ok(Math.abs(score.firstTokenNll! - golden.first[i]!) < 1e-4);
        assert.equal(score.tokens, sequences[i]!.length - 1);
      });
    }
    scoreTokens(model, sequences, { adapter }).forEach((score, i) => {
      assert.ok(Math.abs(score.nll - golden.lora.nll[i]!) < 1e-4 * golden.lora.nll[i]!);
    });
    const before = tf.memory().numTensors;
    scoreTokens(model, sequences, { adapter, maxTokensPerBatch: 1 });
    hiddenStates(model, sequences, 1);
    calibrationStatistics(model, sequences);
    assert.equal(tf.memory().numTensors, before);
    adapter.dispose();
    model.dispose();
  });

  test(`${name}: features and block influence equal PyTorch's`, () => {
    const model = load();
    hiddenStates(model, sequences, 1).forEach((feature, i) => {
      assert.ok(relativeError(feature, unpack(golden.features1[i]!).data) < 1e-5);
    });
    const statistics = calibrationStatistics(model, sequences);
    assert.ok(Math.abs(statistics.influence[0]! - golden.influence0) < 1e-5);
    assert.equal(statistics.meanAbs[1]!.length, 24);
    assert.ok(statistics.meanAbs[1]!.every(value => value > 0));
    model.dispose();
  });
}

test('a sequence longer than the window is scored in windows, every token but the first once', () => {
  const golden = engineGolden.cases.tied!;
  const model = loadEngineModel({ config: golden.config, weights: weightSource(golden.weights) });
  const long = Array.from({ length: 150 }, (_, i) => (i * 7) % 32);
  const [score] = scoreTokens(model, [long]);
  assert.equal(score!.tokens, 149);
  const pieces = scoreTokens(model, [long.slice(0, 64), long.slice(63, 127), long.slice(126)]);
  const sum = pieces.reduce((total, piece) => total + piece.nll, 0);
  assert.ok(Math.abs(score!.nll - sum) < 1e-3);
  const [empty, single] = scoreTokens(model, [[], [3]]);
  assert.deepEqual([empty, single], Array(2).fill({ nll: 0, tokens: 0, firstTokenNll: undefined }));
  model.dispose();
});

test('a token bias shifts the logits; ids and shapes that do not fit are refused by name', () => {
  const golden = engineGolden.cases.tied!;
  const model = loadEngineModel({ config: golden.config, weights: weightSource(golden.weights) });
  const bias = new Float32Array(32);
  bias[5] = 50;
  assert.ok(scoreTokens(model, [[1, 5]], { tokenBias: bias })[0]!.nll < 1e-6);
  assert.throws(() => scoreTokens(model, [[1, 32]]), /outside the model's vocabulary of 32/);
  assert.throws(() => scoreTokens(model, [[1, 2]], { tokenBias: new Float32Array(3) }), /3 entries, the vocabulary 32/);
  model.dispose();
  const { 'model.norm.weight': _gone, ...rest } = golden.weights;
  assert.throws(
    () => loadEngineModel({ config: golden.config, weights: weightSource(rest) }),
    /no weight model.norm.weight/,
  );
});
