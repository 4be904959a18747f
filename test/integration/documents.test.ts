import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { padBatch } from '../../src/learn/model/engine/batch.ts';
import { forwardTokens } from '../../src/learn/model/engine/forward.ts';
import { headLogits } from '../../src/learn/model/engine/head.ts';
import { loadEngineModel, scoreTokens } from '../../src/learn/model/engine/index.ts';
import { makePlan, SecureStream } from '../../src/learn/privacy/index.ts';
import { addBiases, trainDocuments } from '../../src/learn/training/documents.ts';
import { denseBias, releaseVocabulary, type VocabularyBias } from '../../src/learn/training/index.ts';
import { ComputeWorker } from '../../src/learn/worker/client.ts';
import type { DocumentsInput, NoiseInput, TextScore } from '../../src/learn/worker/types.ts';
import { testFolder } from '../support/daemon.ts';
import { engineGolden, weightSource } from '../support/engine-golden.ts';
import { writeTinyModel } from '../support/tiny-model.ts';

/** A histogram and steps as one training: on a model of 32 words, and through the worker's job to files. */

const golden = engineGolden.cases.tied!;
const load = () => loadEngineModel({ config: golden.config, weights: weightSource(golden.weights) });
type Model = ReturnType<typeof load>;
const VOCABULARY = golden.config.vocabSize;
/** Text of the first five words only. */
const text = (i: number) => Array.from({ length: 6 }, (_, t) => (i * 3 + t * t + (i % 7) * t) % 5);
const unitsOf = (sequences: readonly (readonly number[])[]) => sequences.map(tokens => [{ tokens }]);
const five = unitsOf(Array.from({ length: 200 }, (_, i) => text(i)));
const nll = (model: Model, sequences: readonly (readonly number[])[], bias?: VocabularyBias) => {
  const scores = scoreTokens(model, sequences, bias ? { tokenBias: denseBias(bias, VOCABULARY) } : {});
  return scores.reduce((sum, s) => sum + s.nll, 0) / scores.reduce((sum, s) => sum + s.tokens, 0);
};
const plan = (units: number, noiseMultiplier: number, byte = 1, steps = 1) =>
  makePlan({
    ...{ units, expectedUnits: units, steps, delta: 1e-5, unit: 'user', noiseMultiplier },
    ...{ clip: steps === 1 ? { kind: 'flat', bound: 1 } : { kind: 'auto-s' }, seed: new Uint8Array(32).fill(byte) },
  });

/** What the model itself says: text from which a histogram has nothing to learn. */
function ownText(model: Model, count: number, length: number, seed: number): number[][] {
  const stream = new SecureStream(new Uint8Array(32).fill(seed));
  let sequences = Array.from({ length: count }, () => [stream.below(VOCABULARY)]);
  while (sequences[0]!.length < length) {
    const batch = padBatch(sequences, model.config);
    const hidden = forwardTokens(model, batch);
    const rows = Int32Array.from({ length: count }, (_, b) => b * batch.length + batch.length - 1);
    const logits = headLogits(model, hidden, rows);
    const values = logits.dataSync() as Float32Array;
    hidden.dispose();
    logits.dispose();
    sequences = sequences.map((tokens, b) => {
      const row = values.subarray(b * VOCABULARY, (b + 1) * VOCABULARY);
      const weights = row.map(z => Math.exp(z - Math.max(...row)));
      let left = stream.uniform() * weights.reduce((a, w) => a + w, 0);
      const next = weights.findIndex(w => {
        left -= w;
        return left <= 0;
      });
      return [...tokens, next < 0 ? VOCABULARY - 1 : next];
    });
  }
  return sequences;
}

test('histogram and steps share what they compute: the same release as one after the other, and steps see the bias', async () => {
  const steps = { method: { kind: 'norms', layers: 1 }, plan: plan(200, 0.5, 2, 4), seed: new Uint8Array(32) } as const;
  const model = load();
  const together = await trainDocuments({ model, units: five, histogram: { plan: plan(200, 0.6) }, steps });
  const alone = load();
  const { bias } = await trainDocuments({ model: alone, units: five, histogram: { plan: plan(200, 0.6) } });
  assert.deepEqual(together.bias, bias);
  const after = await trainDocuments({
    ...{ model: alone, units: five, bias },
    steps: { ...steps, plan: plan(200, 0.5, 2, 4) },
  });
  assert.deepEqual(after.bias, bias);
  for (const [key, { data }] of together.steps!.weights!)
    data.forEach((x, i) => {
      assert.ok(Math.abs(x - after.steps!.weights!.get(key)!.data[i]!) < 1e-5, key);
    });
  const sequences = five.map(unit => unit[0]!.tokens);
  const fresh = load();
  assert.ok(nll(model, sequences, bias) < nll(fresh, sequences, bias) - 0.05);
  assert.ok(nll(fresh, sequences, bias) < nll(fresh, sequences) - 1);
  for (const m of [model, alone, fresh]) m.dispose();
});

test('a second histogram corrects what the first left: it is told what the model says with the first', async () => {
  const model = load();
  const first = await trainDocuments({ model, units: five, histogram: { plan: plan(200, 0.6) } });
  const second = await trainDocuments({
    ...{ model, units: five, bias: first.bias! },
    histogram: { plan: plan(200, 0.6, 5) },
  });
  const sequences = five.map(unit => unit[0]!.tokens);
  assert.ok(nll(model, sequences, second.bias) < nll(model, sequences, first.bias) + 0.02);
  const twice = addBiases(first.bias!, first.bias!);
  const moved = (bias: VocabularyBias) =>
    Math.max(...bias.map(([token, v]) => Math.abs(v - (new Map(first.bias).get(token) ?? 0))));
  assert.ok(moved(second.bias!) < moved(twice) / 2, 'what was corrected once is not corrected again');
  assert.deepEqual(
    addBiases(
      [
        [3, 1],
        [9, 7],
      ],
      [
        [1, 0.5],
        [3, -1],
        [9, 7],
      ],
    ),
    [
      [1, 0.5],
      [9, 8],
    ],
  );
  model.dispose();
});

test('units are counted under the noise; with few of them the steps are left, and their noise is not spent', async () => {
  const model = load();
  const counts: number[] = [];
  for (let byte = 1; byte <= 8; byte++)
    counts.push((await releaseVocabulary({ model, units: five, plan: plan(200, 0.6, byte) })).units);
  const mean = counts.reduce((a, b) => a + b, 0) / counts.length;
  // Its noise: 0.6 / 0.1 = 6 units.
  assert.ok(Math.abs(mean - 200) < 9 && counts.every(n => Math.abs(n - 200) < 30), counts.join(' '));
  assert.ok(new Set(counts).size > 1);
  const asked: number[] = [];
  const result = await trainDocuments({
    ...{ model, units: five, histogram: { plan: plan(200, 0.6) } },
    steps: { method: { kind: 'norms', layers: 1 }, plan: plan(200, 0.5, 2, 4), seed: new Uint8Array(32) },
    notWorth: units => {
      asked.push(units);
      return 'too few';
    },
  });
  assert.deepEqual([result.steps, result.nothing, asked], [undefined, undefined, [counts[0]]]);
  assert.equal(result.notes.at(-1), 'too few');
  model.dispose();
});

test('too few tokens stand out of the noise: nothing is published, no step is taken, the old bias stays', async () => {
  const model = load();
  const old: VocabularyBias = [[3, 0.25]];
  const result = await trainDocuments({
    ...{ model, units: five.slice(0, 10), bias: old, histogram: { plan: plan(10, 20) } },
    steps: { method: { kind: 'norms', layers: 1 }, plan: plan(10, 1, 2, 4), seed: new Uint8Array(32) },
  });
  assert.match(result.nothing!, /^too little to publish: \d+ tokens stood out .* \(at least \d+ are asked for\)/);
  assert.deepEqual([result.bias, result.steps], [old, undefined]);
  await assert.rejects(trainDocuments({ model, units: five }), { field: 'method' });
  model.dispose();
});

test('never worse: on text that the model says itself a histogram changes next to nothing, at any noise', async () => {
  const model = load();
  const units = unitsOf(ownText(model, 600, 8, 3));
  const held = ownText(model, 300, 8, 4);
  const base = nll(model, held);
  for (const [byte, sigma] of [0.6, 2, 4, 8].entries()) {
    const { bias } = await trainDocuments({ model, units, histogram: { plan: plan(600, sigma, byte + 1) } });
    const after = nll(model, held, bias ?? []);
    assert.ok(after < base + (sigma < 8 ? 0.02 : 0.03), `noise ${sigma}: ${base} -> ${after} nats a token`);
  }
  model.dispose();
});

test('the job: bias and weights in files that say what the model in memory said; a retry writes the same bytes', async t => {
  const folder = testFolder(t, 'documents');
  const model = await writeTinyModel(folder, 'base', 1);
  const documents = Array.from({ length: 300 }, (_, i) => ({
    unit: `u:${i}`,
    text: ['abba baba', 'caba abac'][i % 2]!,
  }));
  const noise = (byte: string, rest: Partial<NoiseInput>): NoiseInput => ({
    ...{ noiseMultiplier: 1, sampleRate: 1, steps: 1, clip: { kind: 'flat', bound: 1 }, expectedUnits: 300 },
    ...{ delta: 1e-6, seed: byte.repeat(32), ...rest },
  });
  const input: Omit<DocumentsInput, 'folder'> = {
    ...{ files: { model }, documents, sequence: 32, perUnit: 4, maxSeconds: 60, threads: 2 },
    histogram: noise('ab', {}),
    steps: {
      method: { kind: 'norms', layers: 2 },
      noise: noise('cd', { steps: 3, sampleRate: 0.5, clip: { kind: 'auto-s' } }),
    },
  };
  const once = async (name: string, change: Partial<typeof input> = {}) => {
    const worker = new ComputeWorker({ threads: 2 });
    try {
      return await worker.call('train-documents', { ...input, ...change, folder: join(folder, name) });
    } finally {
      await worker.close();
    }
  };
  const [one, again] = [await once('one'), await once('again')];
  assert.deepEqual(
    [again.bias!.file.sha256, again.model!.file.sha256, again.steps],
    [one.bias!.file.sha256, one.model!.file.sha256, 3],
  );
  const logitBias = JSON.parse(readFileSync(one.bias!.file.path, 'utf8')) as VocabularyBias;
  assert.equal(logitBias.length, one.bias!.tokens);
  const worker = new ComputeWorker({ threads: 2 });
  t.after(() => worker.close());
  const mean = (scores: readonly TextScore[]) =>
    scores.reduce((sum, s) => sum + s.nll, 0) / scores.reduce((sum, s) => sum + s.tokens, 0);
  const { PUBLIC_SENTENCES } = await import('../../src/learn/training/public-text.ts');
  const sentences = PUBLIC_SENTENCES.slice(0, 48);
  const files = { model: one.model!.file.path, logitBias };
  assert.ok(Math.abs(mean(await worker.perplexity(files, sentences)) - one.check) < 1e-3);
  assert.ok(Math.abs(mean(await worker.perplexity({ model: files.model }, sentences)) - one.check) > 0.1);
  const few = await once('few', { histogram: noise('ab', { noiseMultiplier: 500 }) });
  assert.match(few.nothing!, /too little to publish/);
  assert.deepEqual([few.steps, few.bias, few.model], [0, undefined, undefined]);
});
