import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { after } from 'node:test';
import { type EngineModel, loadEngineModel } from '../../src/learn/model/engine/model.ts';
import { disposeGradients } from '../../src/learn/model/engine/sinks.ts';
import type { Example, Trainable } from '../../src/learn/model/engine/units.ts';
import { headScores } from '../../src/learn/model/head.ts';
import { openModel } from '../../src/learn/model/open.ts';
import { makePlan, streamFor } from '../../src/learn/privacy/index.ts';
import { tensorflow } from '../../src/learn/tensor/backend.ts';
import type { BesidePass } from '../../src/learn/training/beside.ts';
import { OutcomeCounts } from '../../src/learn/training/constraints/counts.ts';
import {
  type ConstraintSpec,
  type ItemFacts,
  measuredValue,
  probeExample,
  Terms,
  type TermsRequest,
} from '../../src/learn/training/constraints/index.ts';
import type { CountedConstraint } from '../../src/learn/training/constraints/spec.ts';
import { violation } from '../../src/learn/training/constraints/spec.ts';
import { headPlan, trainHead } from '../../src/learn/training/head.ts';
import { feedbackUnits, type Item } from '../../src/learn/training/objectives/index.ts';
import { anchorsOf, divergenceGradient, measureDivergence } from '../../src/learn/training/public-terms.ts';
import { trainToEnd } from '../../src/learn/training/trainer.ts';
import { engineGolden, relativeError, unpack, weightSource } from '../support/engine-golden.ts';
import { writeTinyModel } from '../support/tiny-model.ts';

const golden: {
  sequences: number[][];
  divergence: Record<string, { loss: number; gradients: Record<string, Parameters<typeof unpack>[0]> }>;
} = JSON.parse(readFileSync(new URL('../golden/objectives.json', import.meta.url), 'utf8'));
const load = () => {
  const { config, weights } = engineGolden.cases.tied!;
  return loadEngineModel({ config, weights: weightSource(weights) });
};
const seed = new Uint8Array(32).fill(9);
const passOf = (model: EngineModel, keys: Iterable<string>, small = true): BesidePass => {
  const trainable: Trainable = { keys: new Set(keys), size: 100, from: 0, vocabulary: false, small };
  const parameters = {
    keys: () => [...trainable.keys],
    get: (key: string) => model.parameter(key),
    set: (key: string, value: Parameters<EngineModel['setParameter']>[1]) => model.setParameter(key, value),
  };
  return { model, trainable, parameters, options: { maxTokens: 1000 }, plan: undefined };
};

test('KL to a teacher, cut to k tokens and the rest or whole, equals PyTorch with its gradients', async () => {
  const tf = tensorflow();
  for (const [k, expected] of Object.entries(golden.divergence)) {
    const model = load();
    const anchors = anchorsOf(model, golden.sequences, { k: Number(k) });
    const pass = passOf(model, Object.keys(expected.gradients), false);
    assert.ok((await measureDivergence(pass, anchors)) < 1e-6, 'nothing has moved');
    model.setParameter('model.norm.weight', tf.mul(model.parameter('model.norm.weight'), 0.7));
    const { gradients, value } = await divergenceGradient(pass, anchors);
    assert.ok(Math.abs(value - expected.loss) < 1e-5, `${value} is not ${expected.loss}`);
    assert.ok(Math.abs((await measureDivergence(pass, anchors)) - value) < 1e-6);
    for (const [key, gradient] of gradients) {
      const error = relativeError(gradient.dataSync() as Float32Array, unpack(expected.gradients[key]!).data);
      assert.ok(error < 1e-4, `k ${k}, ${key}: relative error ${error}`);
    }
    disposeGradients(gradients);
    model.dispose();
  }
});

/** New text of one kind, public text of another, and a text that must not be said. */
const counting: Example[] = Array.from({ length: 24 }, (_, i) => ({
  tokens: Array.from({ length: 8 }, (_, t) => (i + t) % 32),
}));
const general = Array.from({ length: 16 }, (_, i) =>
  Array.from({ length: 10 }, (_, t) => (i * 7 + t * t * 3 + t) % 32),
);

async function learn(request: Omit<TermsRequest, 'anchors'>, method: 'norms' | 'lora' = 'lora') {
  const model = load();
  const beside = new Terms({ ...request, anchors: anchorsOf(model, general, { k: 32 }) });
  const result = await trainToEnd({
    model,
    method: method === 'lora' ? { kind: 'lora', rank: 4 } : { kind: 'norms', layers: 2 },
    units: counting.map(example => [example]),
    ...{ steps: 20, batch: 12, seed, beside },
    optimizer: { kind: 'adam', learningRate: 0.04 },
  });
  const report = beside.report();
  beside.dispose();
  model.dispose();
  return { report, loss: result.losses.at(-1)!, first: result.losses[0]! };
}

test('with a constraint on the KL it is kept, and less is learned; without it, it is not', async () => {
  const watched: ConstraintSpec = { kind: 'kl_to_base', atMost: 1e9, hard: false };
  const free = await learn({ constraints: [watched] });
  const bound = 0.1;
  assert.ok(free.report[0]!.after! > 4 * bound, `without: ${free.report[0]!.after}`);
  const held = await learn({ constraints: [{ ...watched, atMost: bound, hard: true }] });
  const [kl] = held.report;
  assert.ok(kl!.before! < 1e-5);
  assert.ok(kl!.after! <= bound, `with: ${kl!.after}`);
  assert.equal(kl!.met, true);
  assert.ok(held.loss < held.first - 0.1, 'it has learned all the same');
});

test('a forbidden continuation becomes as unlikely as asked, in a private training too', async () => {
  const spec = (atMost: number): ConstraintSpec => ({ kind: 'forbidden', probes: [], atMost, hard: true });
  // A sequence of the very kind that is learned.
  const probe: Example = { tokens: [4, 5, 6, 7], mask: [false, true, true, true] };
  const loose = spec(1);
  const free = await learn({ constraints: [loose], probes: new Map([[loose, [probe]]]) });
  assert.ok(free.report[0]!.after! > 0.01, `without: ${free.report[0]!.after}`);
  const tight = spec(1e-5);
  const held = await learn({ constraints: [tight], probes: new Map([[tight, [probe]]]) });
  assert.ok(held.report[0]!.after! <= 1e-5, `with: ${held.report[0]!.after}`);

  const model = load();
  const beside = new Terms({ constraints: [tight], probes: new Map([[tight, [probe]]]) });
  const plan = makePlan({
    ...{ units: 24, expectedUnits: 24, steps: 6, delta: 1e-5, noiseMultiplier: 0.5, unit: 'user', seed },
    clip: { kind: 'auto-s' },
  });
  const units = counting.map(example => [example]);
  await trainToEnd({ model, method: { kind: 'norms', layers: 2 }, units, plan, seed, beside });
  assert.equal(beside.report()[0]!.met, true, JSON.stringify(beside.report()));
  beside.dispose();
  model.dispose();
});

test('replay and KL keep what was known', async () => {
  const watched: ConstraintSpec = { kind: 'kl_to_base', atMost: 1e9, hard: false };
  const [free, replayed, kl] = [
    await learn({ constraints: [watched] }),
    await learn({ constraints: [watched], replay: { share: 0.3, sequences: general } }),
    await learn({ constraints: [watched], kl: { weight: 2 } }),
  ].map(({ report }) => report[0]!.after!);
  assert.ok(replayed! < free!, `replay: ${free} -> ${replayed}`);
  assert.ok(kl! < free! / 2, `KL: ${free} -> ${kl}`);
});

const folder = await mkdtemp(join(tmpdir(), 'learnd-constraints-'));
after(() => rm(folder, { recursive: true, force: true }));

const STEPS = 18;
/** Users say "yes" in nine of ten messages; "no" is rare, and learned last. */
async function classify(constraints: readonly ConstraintSpec[]) {
  const checkpoint = await openModel(await writeTinyModel(folder, 'tiny', 5));
  const model = loadEngineModel(checkpoint);
  const rows = Array.from({ length: 30 }, (_, i) => ({
    unit: `user ${i}`,
    kind: 'label' as const,
    text: i % 10 === 0 ? `bad ${i}` : `good ${i}`,
    label: i % 10 === 0 ? 'no' : 'yes',
  }));
  const { units, objective, labelOf } = feedbackUnits(
    rows,
    { kind: 'classify', labels: ['yes', 'no'] },
    { checkpoint, sequence: 64 },
  );
  const facts = new Map<Item, ItemFacts>([...labelOf].map(([item, label]) => [item, { label }]));
  const beside = new Terms({ constraints, facts });
  const plan = makePlan({
    ...{ units: units.length, expectedUnits: units.length, steps: STEPS, delta: 1e-5, noiseMultiplier: 0.4 },
    ...{ unit: 'user', seed, clip: { kind: 'auto-s' }, ...(beside.counts ? { countShare: 0.2 } : {}) },
  });
  await trainToEnd({
    model,
    method: { kind: 'norms', layers: 2 },
    ...{ units, objective, plan, seed, beside },
    optimizer: { kind: 'adam', learningRate: 0.03, betas: [0.9, 0.99] },
  });
  const weigh = await objective!.weigh(units, async examples => {
    const { sequenceLogProbabilities } = await import('../../src/learn/training/objectives/index.ts');
    return await sequenceLogProbabilities(model, examples, { from: 0 }, { maxTokens: 2000 });
  });
  const found = [...labelOf].map(([item, label]) => ({ label, correct: weigh.correct.get(item)! }));
  const estimates = beside.estimates();
  model.dispose();
  beside.dispose();
  return { rows: found, estimates, plan };
}

test('a constraint on the recall of a rare class makes it learned; the counts it looks at are noised and accounted', async () => {
  const recall: ConstraintSpec = { kind: 'recall', task: 't', label: 'no', atLeast: 0.9, hard: false };
  const without = await classify([]);
  const withIt = await classify([recall]);
  const [before, now] = [without, withIt].map(({ rows }) => measuredValue(recall, rows)!);
  assert.ok(now! >= before! + 0.3, `recall of the rare class: ${before} without, ${now} with`);
  const { plan } = withIt;
  assert.equal(plan.noiseMultiplier, 0.4);
  assert.ok(plan.gradientNoise > 0.4);
  assert.ok(Math.abs(plan.gradientNoise ** -2 + plan.mechanisms[0]!.parts!.outcomes! ** -2 - 0.4 ** -2) < 1e-9);
  assert.throws(() => without.plan.countNoise(0, 2), /no share/);
});

test("a unit's counts have a length of at most 1 whatever is declared, and the noise is handed out once", () => {
  const item = (): Item => ({ sequences: [], referenced: false, loss: () => ({ loss: 0, slopes: [] }) });
  const items = [item(), item(), item()];
  const facts = new Map(items.map((of, i) => [of, { label: i < 2 ? 'a' : 'b', region: 'EU' }]));
  const counts = new OutcomeCounts(
    [
      { kind: 'recall', task: 't', label: 'a', atLeast: 0.5, hard: false },
      {
        kind: 'gap',
        task: 't',
        groups: { by: 'label', of: { x: ['a'], y: ['a', 'b'], z: ['b', 'a'] } },
        atMost: 0.1,
        hard: false,
      },
      { kind: 'gap', task: 't', groups: { by: 'region', of: ['EU', 'US'] }, atMost: 0.1, hard: false },
    ],
    facts,
  );
  for (const right of [
    [true, true, true],
    [true, false, true],
    [false, false, false],
  ]) {
    const vector = counts.unitVector(items.map((of, i) => ({ item: of, correct: right[i]! })));
    assert.ok(Math.hypot(...vector) <= 1 + 1e-12, `${Math.hypot(...vector)}`);
  }
  const plan = makePlan({
    ...{ units: 3, expectedUnits: 3, steps: 2, delta: 1e-5, noiseMultiplier: 1, countShare: 0.1, unit: 'user', seed },
    clip: { kind: 'auto-s' },
  });
  const { std } = plan.countNoise(0, counts.length);
  assert.ok(Math.abs(std - Math.sqrt(10)) < 1e-9);
  assert.throws(() => plan.countNoise(0, counts.length), /handed out already/);
  // Too little to tell from noise: nothing is believed.
  counts.add([items.map(of => ({ item: of, correct: true }))], new Float64Array(counts.length), std);
  assert.equal(counts.recall('label a'), undefined);
});

test('probes, violations and measured values', async () => {
  const checkpoint = await openModel(await writeTinyModel(folder, 'tiny', 5));
  const plain = probeExample(checkpoint, { text: 'abc' }, 100);
  assert.deepEqual(plain.mask, [false, true, true]);
  const asked = probeExample(checkpoint, { prompt: 'card?', text: 'abc' }, 100);
  assert.equal(asked.mask!.filter(Boolean).length, 3);
  assert.throws(() => probeExample(checkpoint, { text: 'a' }, 100), /too short/);
  const kl: ConstraintSpec = { kind: 'kl_to_base', atMost: 0.1, hard: false };
  assert.ok(violation(kl, 0.2) > 0 && violation(kl, 0.05) < 0 && violation(kl, 100) === 2);
  const gap = { kind: 'gap', task: 't', groups: { by: 'region', of: ['EU', 'US'] }, atMost: 0.1, hard: true } as const;
  const rows = [
    { label: 'a', region: 'EU', correct: true },
    { label: 'a', region: 'EU', correct: true },
    { label: 'a', region: 'US', correct: false },
    { label: 'a', region: 'US', correct: true },
  ];
  assert.equal(measuredValue(gap, rows), 0.5);
  assert.equal(
    measuredValue(gap, rows.slice(0, 2)),
    undefined,
    'a group that nobody was held out of is not vouched for',
  );
});

/** Two labels whose features lie close; the second is one of twelve. */
async function headOf(constraints: readonly CountedConstraint[]) {
  const stream = streamFor(seed, 'features');
  const vector = (shift: number) =>
    Float32Array.from({ length: 8 }, (_, i) => stream.normal(1)[0]! + (i === 0 ? shift : 0));
  const units = Array.from({ length: 240 }, (_, i) => ({
    user: `u${i}`,
    examples: [i % 12 === 0 ? { feature: vector(0.8), label: 1 } : { feature: vector(-0.8), label: 0 }],
  }));
  const plan = headPlan({
    ...{ units: units.length, expectedUnits: 240, epsilon: 8, delta: 1e-5, seed },
    ...(constraints.length > 0 && { countShare: 0.1 }),
  });
  const { head } = await trainHead({
    ...{ task: 't', labels: ['often', 'rare'], units, constraints, privacy: plan, layer: 1, featuresSha256: '' },
    publicFeatures: Array.from({ length: 60 }, () => vector(0)),
    labelFeatures: [[vector(0)], [vector(0)]],
  });
  const rare = units.filter(({ examples }) => examples[0]!.label === 1);
  const right = rare.filter(({ examples }) => {
    const [often, other] = headScores(head, examples[0]!.feature);
    return other! > often!;
  });
  return { recall: right.length / rare.length, plan };
}

test('a head, too: a constraint on recall changes what is learned, within the same epsilon', async () => {
  const without = await headOf([]);
  const withIt = await headOf([{ kind: 'recall', task: 't', label: 'rare', atLeast: 0.9, hard: false }]);
  assert.ok(withIt.recall >= without.recall + 0.15, `${without.recall} without, ${withIt.recall} with`);
  assert.ok(Math.abs(withIt.plan.epsilon - without.plan.epsilon) < 1e-6);
  assert.ok(withIt.plan.gradientNoise > without.plan.gradientNoise);
});

test('interrupted under constraints and gone on with: the same multipliers, the same release', async () => {
  const kl: ConstraintSpec = { kind: 'kl_to_base', atMost: 0.01, hard: false };
  const path = join(folder, 'state.safetensors');
  const go = async (stopAfter?: number, resume = false) => {
    const model = load();
    const beside = new Terms({ constraints: [kl], anchors: anchorsOf(model, general, { k: 32 }) });
    const plan = makePlan({
      ...{ units: 24, expectedUnits: 24, steps: 6, delta: 1e-5, noiseMultiplier: 0.5, unit: 'user', seed },
      clip: { kind: 'auto-s' },
    });
    const stop = new AbortController();
    const request = {
      ...{ model, method: { kind: 'norms', layers: 1 } as const, units: counting.map(example => [example]) },
      ...{ plan, seed, beside, signal: stop.signal, checkpoint: { path, everySteps: 1 }, resume },
    };
    try {
      const { weights } = await trainToEnd(request, ({ step }) => step === stopAfter && stop.abort());
      return [...weights!.get('model.norm.weight')!.data];
    } finally {
      beside.dispose();
      model.dispose();
    }
  };
  const whole = await go();
  await rm(path, { force: true });
  await assert.rejects(go(3), { code: 'canceled' });
  assert.deepEqual(await go(undefined, true), whole);
});
