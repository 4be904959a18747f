import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { after } from 'node:test';
import { loadEngineModel } from '../../src/learn/model/engine/model.ts';
import { disposeGradients, type Gradients } from '../../src/learn/model/engine/sinks.ts';
import {
  clippedUnitGradients,
  type Example,
  meanGradient,
  type Trainable,
} from '../../src/learn/model/engine/units.ts';
import { openModel } from '../../src/learn/model/open.ts';
import { makePlan } from '../../src/learn/privacy/index.ts';
import { groupsOf } from '../../src/learn/training/examples.ts';
import {
  type FeedbackRow,
  feedbackUnits,
  LabelItems,
  type Objective,
  objectiveOf,
  sequenceLogProbabilities,
  variantUnits,
} from '../../src/learn/training/objectives/index.ts';
import { type TrainRequest, trainToEnd } from '../../src/learn/training/trainer.ts';
import { documentVariants, rowVariants } from '../../src/learn/training/variants.ts';
import { unitsOf } from '../../src/learn/worker/jobs/text-training.ts';
import { engineGolden, weightSource } from '../support/engine-golden.ts';
import { writeTinyModel } from '../support/tiny-model.ts';

/** Variants of an example under privacy: averaged with it before the unit is clipped. */

const folder = await mkdtemp(join(tmpdir(), 'learnd-variants-'));
after(() => rm(folder, { recursive: true, force: true }));

const { config, weights } = engineGolden.cases.tied!;
const load = () => loadEngineModel({ config, weights: weightSource(weights) });
const options = { maxTokens: 64 };
const noClip = () => 1;
const clip = (norm: number) => Math.min(1, 0.3 / (norm + 1e-6));

const trainableOf = (keys: readonly string[]): Trainable => ({
  keys: new Set(keys),
  ...{ size: 1000, from: 0, vocabulary: keys.includes('model.embed_tokens.weight'), small: false },
});

/** Token ids below the vocabulary's size, different ones for each number. */
const ex = (n: number, length: number, mask?: (t: number) => boolean): Example => {
  const tokens = Array.from({ length }, (_, t) => (n * 7 + t * (n + 3)) % config.vocabSize);
  return mask === undefined ? { tokens } : { tokens, mask: tokens.map((_, t) => mask(t)) };
};

const flat = (gradients: Gradients): Map<string, Float32Array> => {
  const out = new Map([...gradients].map(([key, gradient]) => [key, gradient.dataSync().slice() as Float32Array]));
  disposeGradients(gradients);
  return out;
};

function nearly(found: Map<string, Float32Array>, expected: Map<string, ArrayLike<number>>, what: string): void {
  for (const [key, values] of expected) {
    const size = Math.sqrt(Array.from(values).reduce((sum, v) => sum + v * v, 0));
    const off = Math.sqrt(found.get(key)!.reduce((sum, v, i) => sum + (v - values[i]!) ** 2, 0));
    assert.ok(off <= 2e-5 * size + 1e-9, `${what}, ${key}: ${off} of ${size}`);
  }
}

const GROUPS: Example[][][] = [
  [[ex(1, 9), ex(2, 12), ex(3, 7)], [ex(4, 6)]],
  [[ex(5, 14, t => t > 6), ex(6, 11, t => t > 8)]],
  [[ex(7, 5)], [ex(8, 8), { tokens: [3] }, ex(9, 8)], [{ tokens: [4] }]],
];

const weightsOf = async (objective: Objective, drawn: readonly (readonly Example[])[]) =>
  (await objective.weigh(drawn, async () => assert.fail('no look at log-probabilities is needed'))).tokenWeight;

test("a unit's gradient is the mean over its examples of the mean over each and its variants, before clipping", async () => {
  const model = load();
  const keys = [...model.parameterNames()];
  for (const trainable of [trainableOf(keys), { ...trainableOf(keys.filter(key => /norm/.test(key))), small: true }]) {
    const { units, objective } = variantUnits(GROUPS, 'examples');
    const tokenWeight = await weightsOf(objective, units);
    for (const factor of [noClip, clip]) {
      const together = await clippedUnitGradients(model, units, trainable, factor, { ...options, tokenWeight });
      const expected = new Map<string, Float64Array>();
      for (const [u, groups] of GROUPS.entries()) {
        // One sequence a pass.
        const own = new Map<string, Float64Array>();
        const useful = groups.map(group => group.filter(e => e.tokens.length > 1)).filter(group => group.length > 0);
        for (const group of useful)
          for (const example of group) {
            const single = flat((await meanGradient(model, [example], trainable, options)).gradients);
            for (const [key, values] of single) {
              const sum = own.get(key) ?? new Float64Array(values.length);
              for (let i = 0; i < values.length; i++) sum[i]! += values[i]! / (group.length * useful.length);
              own.set(key, sum);
            }
          }
        const norm = Math.sqrt([...own.values()].reduce((sum, of) => sum + of.reduce((s, v) => s + v * v, 0), 0));
        assert.ok(Math.abs(together.norms[u]! / norm - 1) < 1e-4, `unit ${u}: ${together.norms[u]} is not ${norm}`);
        for (const [key, values] of own) {
          const sum = expected.get(key) ?? new Float64Array(values.length);
          for (let i = 0; i < values.length; i++) sum[i]! += values[i]! * factor(norm);
          expected.set(key, sum);
        }
      }
      nearly(flat(together.gradients), expected, factor === clip ? 'clipped' : 'whole');
    }
  }
  model.dispose();
});

test('a label choice with variants: the mean of the single choices; right or wrong is the text as it was said', async () => {
  const checkpoint = await openModel(await writeTinyModel(folder, 'tiny', 5));
  const model = loadEngineModel(checkpoint);
  const trainable = trainableOf(['model.norm.weight', 'model.layers.1.mlp.down_proj.weight']);
  const labels = ['card lost', 'card late', 'other'];
  const texts = ['where is it', 'where it is', 'is it where'];
  const row: FeedbackRow = { unit: 'a', kind: 'label', text: texts[0]!, label: 'card late', variants: texts.slice(1) };
  const plain: FeedbackRow = { unit: 'a', kind: 'label', text: 'hello', label: 'other' };
  const asked = (given: readonly Example[]) => sequenceLogProbabilities(model, given, trainable, options);
  const gradientOf = async ({ units, objective }: { units: readonly (readonly Example[])[]; objective: Objective }) => {
    const { tokenWeight, correct, loss } = await objective.weigh(units, asked);
    const pass = await clippedUnitGradients(model, units, trainable, noClip, { ...options, tokenWeight });
    return { of: flat(pass.gradients), correct: [...correct.values()], loss: loss! };
  };
  const varied = feedbackUnits([row, plain], { kind: 'classify', labels }, { checkpoint, sequence: 64 });
  assert.deepEqual([...varied.labelOf.values()], ['card late', 'other'], 'two items, however many variants');
  const found = await gradientOf({ units: varied.units, objective: varied.objective! });
  const items = new LabelItems(labels, checkpoint.tokenizer, checkpoint.config.contextLength);
  const single = async (text: string, label: string) =>
    await gradientOf(objectiveOf('classify', [[items.item(text, label)]]));
  const three = await Promise.all(texts.map(text => single(text, 'card late')));
  const other = await single('hello', 'other');
  const expected = new Map(
    [...other.of].map(([key, values]) => [
      key,
      values.map((v, i) => v / 2 + three.reduce((sum, { of }) => sum + of.get(key)![i]! / 6, 0)),
    ]),
  );
  nearly(found.of, expected, 'classify');
  assert.ok(Math.abs(found.loss - (other.loss + three.reduce((sum, t) => sum + t.loss / 3, 0)) / 2) < 1e-5);
  assert.deepEqual(found.correct, [three[0]!.correct[0], other.correct[0]]);
  model.dispose();
});

test('what a unit gives follows from this unit alone, and plans know nothing of variants', async () => {
  const checkpoint = await openModel(await writeTinyModel(folder, 'tiny', 5));
  const variation = { seed: 'sealed', count: 2 };
  const own = [
    { unit: 'ana', text: 'The bank sent a new card to the old house last week.' },
    { unit: 'ana', text: 'Please tell me how much money is left.' },
  ];
  const asExamples = async (documents: readonly { unit: string; text: string }[]) => {
    const variants = await documentVariants(
      documents.map(({ text }) => text),
      variation,
    );
    const input = { documents, sequence: 24, perUnit: 3 };
    const groups = groupsOf(input, checkpoint.tokenizer, variants);
    assert.deepEqual(
      groups.map(of => of.map(([example]) => example)),
      unitsOf(input, checkpoint.tokenizer),
      'the examples themselves are what they are without variants',
    );
    const { units, objective } = variantUnits(groups, 'examples');
    const tokenWeight = await weightsOf(objective, units);
    return units.map(unit => unit.map(example => [example.tokens, tokenWeight(example)]));
  };
  const alone = (await asExamples(own))[0]!;
  assert.ok(alone.length > 3, 'there are variants');
  const sum = alone.reduce(
    (total, [tokens, weight]) => total + (weight as number) * ((tokens as number[]).length - 1),
    0,
  );
  assert.ok(Math.abs(sum - 1) < 1e-12, 'as much as one example alone');
  const busy = Array.from({ length: 30 }, (_, i) => ({
    unit: 'bo',
    text: `My account number ${i} shows a wrong sum of money.`,
  }));
  assert.deepEqual((await asExamples([...busy, ...own])).at(-1), alone);
  assert.deepEqual((await asExamples([...own, ...busy]))[0], alone);

  const rows: FeedbackRow[] = [
    { unit: 'ana', kind: 'label', text: 'my card never came to the house', label: 'card late' },
    {
      unit: 'ana',
      kind: 'correction',
      messages: [{ role: 'user', content: 'what is the capital city of France' }],
      ideal: 'Paris is the capital of France.',
    },
    {
      unit: 'ana',
      kind: 'rating',
      messages: [{ role: 'user', content: 'hello there, good friend' }],
      answer: 'no',
      liked: false,
    },
  ];
  const varied = await rowVariants(rows, variation, { labels: ['card late', 'other'] });
  const others = rows.map(row => ({ ...row, unit: 'bo' }));
  assert.deepEqual(
    (await rowVariants([...others, ...rows], variation, { labels: ['card late', 'other'] })).slice(3),
    varied,
  );
  const [label, correction, rating] = varied as { variants?: readonly string[] }[];
  assert.equal(label!.variants!.length, 2);
  assert.ok(
    label!.variants!.every(text => text.includes('card')),
    'a word of a label is never touched',
  );
  assert.ok(correction!.variants!.every(text => /capital/.test(text) && /of/.test(text) && /France/.test(text)));
  assert.ok(correction!.variants!.length > 0);
  assert.equal(rating!.variants, undefined, 'a judgement is of the answer to that very prompt');
});

test('with copies as variants a training is the training without them: sampling, divisor, steps and all', async () => {
  const plain: Example[][] = [[ex(1, 9), ex(4, 13)], [ex(5, 14)], [ex(7, 5), ex(8, 8), ex(9, 3)], [ex(2, 6)]];
  const copied = (mean: 'examples' | 'tokens') =>
    variantUnits(
      plain.map((unit, u) => unit.map((e, i) => Array.from({ length: 1 + ((u + i) % 3) }, () => ({ ...e })))),
      mean,
    );
  const seed = new Uint8Array(32).fill(5);
  const trained = async (request: Pick<TrainRequest, 'units' | 'objective'>, isPrivate: boolean) => {
    const model = load();
    const plan = () =>
      makePlan({
        ...{ units: 4, expectedUnits: 4, sampleRate: 0.6, steps: 4, delta: 1e-6, noiseMultiplier: 1.1, seed },
        ...{ clip: { kind: 'flat', bound: 0.5 }, unit: 'user' },
      });
    const drawn: number[] = [];
    const result = await trainToEnd(
      {
        ...{ model, method: { kind: 'full' }, seed, maxTokens: 64, ...request },
        ...(isPrivate ? { plan: plan() } : { steps: 4, batch: 3 }),
      },
      progress => drawn.push(progress.drawn),
    );
    const moved = new Map([...result.weights!].map(([name, { data }]) => [name, data]));
    model.dispose();
    return { moved, drawn, losses: result.losses };
  };
  for (const isPrivate of [true, false]) {
    const without = await trained({ units: plain }, isPrivate);
    const withCopies = await trained(copied(isPrivate ? 'examples' : 'tokens'), isPrivate);
    if (isPrivate) assert.deepEqual(withCopies.drawn, without.drawn);
    assert.ok(withCopies.losses.every(loss => loss === undefined || Number.isFinite(loss)));
    nearly(withCopies.moved, without.moved, isPrivate ? 'private' : 'public');
  }
});
