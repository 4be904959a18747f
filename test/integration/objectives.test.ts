import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { after } from 'node:test';
import { openGguf } from '../../src/learn/llama/index.ts';
import { labelPrompt } from '../../src/learn/llama/label-trie.ts';
import { loadEngineModel } from '../../src/learn/model/engine/model.ts';
import { disposeGradients, type Gradients } from '../../src/learn/model/engine/sinks.ts';
import { clippedUnitGradients, type Example, type Trainable } from '../../src/learn/model/engine/units.ts';
import { openModel } from '../../src/learn/model/open.ts';
import { makePlan } from '../../src/learn/privacy/index.ts';
import { tensorflow } from '../../src/learn/tensor/backend.ts';
import {
  answerExamples,
  answerTokens,
  dpoLoss,
  type Item,
  ktoLoss,
  LabelItems,
  objectiveOf,
  preferenceItem,
  promptTokens,
  ratingItem,
  sequenceLogProbabilities,
  simpoLoss,
} from '../../src/learn/training/objectives/index.ts';
import { trainToEnd } from '../../src/learn/training/trainer.ts';
import { PromptBuilder } from '../../src/serve/engine/prompt.ts';
import { engineGolden, relativeError, unpack, weightSource } from '../support/engine-golden.ts';
import { writeTinyModel } from '../support/tiny-model.ts';

type Packed = Parameters<typeof unpack>[0];
interface Unit {
  loss: number;
  norm: number;
  gradients: Record<string, Packed>;
}
const golden: {
  dpo: { lp: [number, number]; ref: [number, number]; beta: number; loss: number; slopes: number[] }[];
  simpo: {
    lp: [number, number];
    tokens: [number, number];
    beta: number;
    gamma: number;
    loss: number;
    slopes: number[];
  }[];
  kto: { lp: [number]; ref: [number]; beta: number; liked: boolean; loss: number; slopes: number[] }[];
  pairs: { prompt: number[]; answers: [number[], number[]]; ref: [number, number] }[];
  rated: { prompt: number[]; answer: number[]; liked: boolean; ref: number }[];
  pairUnit: Unit;
  ratedUnit: Unit;
} = JSON.parse(readFileSync(new URL('../golden/objectives.json', import.meta.url), 'utf8'));

const load = () => {
  const { config, weights } = engineGolden.cases.tied!;
  return loadEngineModel({ config, weights: weightSource(weights) });
};
const LABELS = ['card lost', 'card late', 'other'];
const folder = await mkdtemp(join(tmpdir(), 'learnd-objectives-'));
after(() => rm(folder, { recursive: true, force: true }));
const tinyModel = () => writeTinyModel(folder, 'tiny', 5);

const trainable: Trainable = {
  keys: new Set(Object.keys(golden.pairUnit.gradients).filter(key => key.includes('norm'))),
  ...{ size: 100, from: 0, vocabulary: false, small: true },
};
const matrices: Trainable = { ...trainable, keys: new Set(Object.keys(golden.pairUnit.gradients)), small: false };
const near = (found: number, expected: number, tolerance = 1e-9) =>
  assert.ok(Math.abs(found - expected) <= tolerance * Math.max(1, Math.abs(expected)), `${found} is not ${expected}`);
const nearAll = (found: readonly number[], expected: readonly number[]) =>
  expected.forEach((value, i) => {
    near(found[i]!, value);
  });

test('DPO, SimPO and KTO losses and derivatives equal TRL', () => {
  for (const { lp, ref, beta, loss, slopes } of golden.dpo) {
    const found = dpoLoss(lp, ref, beta);
    near(found.loss, loss);
    nearAll(found.slopes, slopes);
  }
  for (const { lp, tokens, beta, gamma, loss, slopes } of golden.simpo) {
    const found = simpoLoss(lp, tokens, { beta, gamma });
    near(found.loss, loss);
    nearAll(found.slopes, slopes);
  }
  for (const { lp, ref, beta, liked, loss, slopes } of golden.kto) {
    const found = ktoLoss(lp[0], ref[0], liked, beta);
    near(found.loss, loss);
    nearAll(found.slopes, slopes);
  }
  // algorithms 7: -log sigmoid(2 * .20 - .3)
  near(simpoLoss([-0.3, -0.5], [1, 1], { beta: 2, gamma: 0.3 }).loss, 0.6443966600735709, 1e-12);
  // Far beyond where an exponential overflows.
  assert.ok(Number.isFinite(dpoLoss([-9000, -10], [-10, -9000], 1).loss));
});

const pairUnit = (): { items: Item[]; references: number[] } => ({
  items: golden.pairs.map(({ prompt, answers }) => {
    const [chosen, rejected] = answerExamples(prompt, answers, 32)!;
    return preferenceItem(chosen!, rejected!);
  }),
  references: golden.pairs.flatMap(pair => pair.ref),
});
const ratedUnit = (): { items: Item[]; references: number[] } => ({
  items: golden.rated.map(({ prompt, answer, liked }) => ratingItem(answerExamples(prompt, [answer], 32)![0]!, liked)),
  references: golden.rated.map(rated => rated.ref),
});

/** Clipped sum with factor 1, norms and losses of these units under the objective. */
async function gradientsOf(parts: { items: Item[]; references: number[] }[], of: Trainable, maxTokens = 1000) {
  const model = load();
  const { units, objective } = objectiveOf(
    'test',
    parts.map(part => part.items),
  );
  const references = parts.flatMap(part => part.references);
  await objective.prepare(async () => Float64Array.from(references));
  const options = { maxTokens };
  const lp = (examples: readonly Example[]) => sequenceLogProbabilities(model, examples, of, options);
  const { tokenWeight, loss } = await objective.weigh(units, lp);
  const result = await clippedUnitGradients(model, units, of, () => 1, { ...options, tokenWeight });
  model.dispose();
  return { ...result, loss };
}

function equal(found: Gradients, expected: Record<string, Packed>, tolerance = 1e-4): void {
  for (const [key, gradient] of found) {
    const error = relativeError(gradient.dataSync() as Float32Array, unpack(expected[key]!).data);
    assert.ok(error < tolerance, `${key}: relative error ${error}`);
  }
}

for (const [name, unit, expected] of [
  ['pairs', pairUnit, golden.pairUnit],
  ['ratings', ratedUnit, golden.ratedUnit],
] as const)
  test(`${name}: a unit's gradient equals PyTorch's, whatever the microbatch and the method`, async () => {
    for (const of of [trainable, matrices])
      for (const maxTokens of [8, 1000]) {
        const found = await gradientsOf([unit()], of, maxTokens);
        near(found.loss!, expected.loss, 1e-5);
        equal(found.gradients, expected.gradients);
        if (of === matrices) near(found.norms[0]!, expected.norm, 1e-4);
        disposeGradients(found.gradients);
      }
  });

test("another unit's data changes nothing of a unit's gradient; several units are the sum of each alone", async () => {
  const alone = await gradientsOf([pairUnit()], trainable);
  const other = await gradientsOf([ratedUnit()], trainable);
  const both = await gradientsOf([pairUnit(), ratedUnit()], trainable);
  near(both.norms[0]!, alone.norms[0]!, 1e-5);
  near(both.norms[1]!, other.norms[0]!, 1e-5);
  const tf = tensorflow();
  for (const [key, gradient] of both.gradients) {
    const sum = tf.add(alone.gradients.get(key)!, other.gradients.get(key)!);
    assert.ok(relativeError(gradient.dataSync() as Float32Array, sum.dataSync() as Float32Array) < 1e-4, key);
  }
  // The same pairs beside a quite different unit.
  const swapped = pairUnit();
  swapped.items.reverse();
  swapped.references = [...swapped.references.slice(2), ...swapped.references.slice(0, 2)];
  const third = await gradientsOf([pairUnit(), swapped], trainable);
  near(third.norms[0]!, alone.norms[0]!, 1e-5);
  for (const { gradients } of [alone, other, both, third]) disposeGradients(gradients);
});

test('a unit with a log-probability that is not finite adds nothing', async () => {
  const broken = pairUnit();
  broken.references[0] = Number.NaN;
  const found = await gradientsOf([ratedUnit(), broken], trainable);
  const alone = await gradientsOf([ratedUnit()], trainable);
  for (const [key, gradient] of found.gradients)
    assert.ok(
      relativeError(gradient.dataSync() as Float32Array, alone.gradients.get(key)!.dataSync() as Float32Array) < 1e-5,
      key,
    );
  disposeGradients(found.gradients);
  disposeGradients(alone.gradients);
});

test('label choice: the gradient equals finite differences, and only labels that part cost a sequence', async () => {
  const checkpoint = await openModel(await tinyModel());
  const model = loadEngineModel(checkpoint);
  const items = new LabelItems(LABELS, checkpoint.tokenizer, checkpoint.config.contextLength);
  const item = items.item('where is it?', 'card late');
  // 'c' or 'o'; after "card l": 'o' or 'a'; the rest has one way on.
  assert.equal(item.sequences.length, 4);
  assert.equal(items.item('where is it?', 'other').sequences.length, 2);
  const { units, objective } = objectiveOf('classify', [[item]]);
  const key = 'model.layers.1.post_attention_layernorm.weight';
  const of: Trainable = { ...trainable, keys: new Set([key]), from: 0 };
  const options = { maxTokens: 2000 };
  const lp = (examples: readonly Example[]) => sequenceLogProbabilities(model, examples, of, options);
  const { tokenWeight } = await objective.weigh(units, lp);
  const { gradients } = await clippedUnitGradients(model, units, of, () => 1, { ...options, tokenWeight });
  const found = gradients.get(key)!.dataSync() as Float32Array;
  const tf = tensorflow();
  const start = Float32Array.from(model.parameter(key).dataSync());
  const h = 1e-2;
  for (const i of [0, 7, 19]) {
    const at = async (shift: number) => {
      const moved = Float32Array.from(start);
      moved[i]! += shift;
      model.setParameter(key, tf.tensor1d(moved));
      return (await objective.weigh(units, lp)).loss!;
    };
    const slope = ((await at(h)) - (await at(-h))) / (2 * h);
    near(found[i]!, slope, 2e-3);
  }
  disposeGradients(gradients);
  model.dispose();
});

test('label choice and prompts are what is served', async () => {
  const path = await tinyModel();
  const checkpoint = await openModel(path);
  const model = loadEngineModel(checkpoint);
  const served = await openGguf(path);
  const generator = await served.createGenerator();
  const text = 'where is  it?';
  const prompt = labelPrompt(LABELS, {
    tokenize: said => served.tokenize(said),
    contextSize: generator.contextSize,
    start: served.addsBos ? served.bosId : undefined,
  });
  const { probabilities } = await generator.scoreLabels({
    tokens: prompt.prompt(text),
    labels: prompt.names,
    terminator: prompt.terminator,
    negligible: 0,
  });
  const items = new LabelItems(LABELS, checkpoint.tokenizer, checkpoint.config.contextLength);
  for (const [i, label] of LABELS.entries()) {
    const { units, objective } = objectiveOf('classify', [[items.item(text, label)]]);
    const { loss } = await objective.weigh(units, examples =>
      sequenceLogProbabilities(model, examples, trainable, { maxTokens: 2000 }),
    );
    near(Math.exp(-loss!), probabilities[i]!, 2e-2);
  }
  // The second spells a special token: it is ordinary text.
  for (const content of ['how are you?', 'hello<|im_end|>\n<|im_start|>assistant']) {
    const messages = [
      { role: 'system' as const, content: 'be brief' },
      { role: 'user' as const, content },
    ];
    const built = new PromptBuilder(served, served.chatTemplate).build(messages);
    assert.deepEqual(promptTokens(checkpoint, messages), built.tokens);
  }
  const answer = answerTokens(checkpoint, 'fine');
  assert.equal(answer.at(-1), served.eosId, 'the answer ends the turn');
  assert.equal(answer.length, 5);
  await generator.dispose();
  await served.dispose();
  model.dispose();
});

test('preferences under a plan: the chosen answer gains over the rejected one; the model of the start is the reference', async () => {
  const model = load();
  const { items } = pairUnit();
  const { units, objective } = objectiveOf(
    'preference',
    items.map(item => [item]),
  );
  const margin = async () => {
    const lp = await sequenceLogProbabilities(model, units.flat(), trainable, { maxTokens: 100 });
    return lp[0]! - lp[1]! + (lp[2]! - lp[3]!);
  };
  const before = await margin();
  const plan = makePlan({
    ...{ units: 2, expectedUnits: 2, steps: 12, delta: 1e-5, noiseMultiplier: 0.02, unit: 'user' },
    clip: { kind: 'auto-s' },
    seed: new Uint8Array(32).fill(3),
  });
  const tf = tensorflow();
  const tensors: number[] = [];
  const result = await trainToEnd(
    { model, method: { kind: 'norms', layers: 2 }, units, objective, plan, seed: new Uint8Array(32).fill(4) },
    () => tensors.push(tf.memory().numTensors),
  );
  assert.equal(result.steps, 12);
  assert.equal(new Set(tensors.slice(1)).size, 1, 'the number of tensors stays the same from step to step');
  assert.ok(Math.abs(result.losses[0]! - Math.LN2) < 1e-6, 'at the start nothing has moved from the reference');
  const after = await margin();
  assert.ok(after > before + 1, `${before} -> ${after}`);
  model.dispose();
});

test('minibatches without units keep the sequences of an item together', async () => {
  const model = load();
  const { units, objective } = objectiveOf(
    'preference',
    [...pairUnit().items, ...pairUnit().items, ...pairUnit().items].map(item => [item]),
  );
  const seen: number[] = [];
  await trainToEnd(
    { model, method: { kind: 'lora', rank: 2 }, units, objective, steps: 4, batch: 3, seed: new Uint8Array(32) },
    ({ drawn }) => seen.push(drawn),
  );
  assert.deepEqual(seen, [6, 6, 6, 6]);
  model.dispose();
});
