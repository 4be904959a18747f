import assert from 'node:assert/strict';
import test from 'node:test';
import { loadEngineModel } from '../../src/learn/model/engine/model.ts';
import { clippedUnitGradients, type Example } from '../../src/learn/model/engine/units.ts';
import type { Head } from '../../src/learn/model/types.ts';
import { type DpPlan, makePlan, streamFor } from '../../src/learn/privacy/index.ts';
import { tensorflow } from '../../src/learn/tensor/backend.ts';
import { labelSentences, trainHead } from '../../src/learn/training/head.ts';
import { randomWeights, trainToEnd } from '../../src/learn/training/index.ts';
import { PUBLIC_SENTENCES } from '../../src/learn/training/public-text.ts';
import {
  changeFindings,
  type Finding,
  fingerprints,
  gradientFindings,
  probeFinding,
  requireAll,
} from '../../src/learn/training/self-check.ts';
import { headFindings } from '../../src/learn/training/self-check-head.ts';
import { type Method, prepareTraining } from '../../src/learn/training/trainables.ts';
import { byteToken, TINY } from '../support/tiny-model.ts';

/** Each check of a training, with a fault planted for it. */
const seed = new Uint8Array(32).fill(4);
const failing = (findings: readonly Finding[]): string[] => findings.filter(f => !f.ok).map(f => f.check);
const tiny = () => loadEngineModel({ config: TINY, weights: randomWeights(TINY, streamFor(seed, 'weights')) });
const example = (i: number): Example => ({
  tokens: [...`${PUBLIC_SENTENCES[i]} ${PUBLIC_SENTENCES[i + 1]}`].slice(0, 64).map(byteToken),
});

type Gradients = typeof clippedUnitGradients;
type Found = Awaited<ReturnType<Gradients>>;
/** The deployed gradients with something done to them. */
const broken =
  (change: (found: Found) => Found): Gradients =>
  async (...input) =>
    change(await clippedUnitGradients(...input));
const scaled =
  (by: (i: number, n: number) => number) =>
  (found: Found): Found => {
    for (const [key, gradient] of found.gradients) {
      const data = gradient.dataSync().map((x, i) => x * by(i, gradient.size));
      found.gradients.set(key, tensorflow().tensor(data, gradient.shape));
      gradient.dispose();
    }
    return found;
  };

test('gradients of every method, random blocks and sentences: equal to differences of the loss; wrong ones are not', async () => {
  const model = tiny();
  const before = fingerprints(model);
  const methods: Method[] = [{ kind: 'full' }, { kind: 'norms', layers: 2 }, { kind: 'lora', rank: 4 }];
  for (const method of methods)
    for (let i = 0; i < 3; i++) {
      const { trainable, dispose } = prepareTraining(model, method, streamFor(seed, `start ${i}`));
      // As after training: B of a new adapter is zero.
      for (const pair of trainable.adapter?.pairs.values() ?? []) {
        const b = tensorflow().keep(tensorflow().randomNormal(pair.b.shape, 0, 0.02, 'float32', i));
        pair.b.dispose();
        pair.b = b as typeof pair.b;
      }
      const check = { model, trainable, example: example(i) };
      const stream = () => streamFor(seed, `${method.kind} ${i}`);
      const right = await gradientFindings({ ...check, stream: stream() });
      assert.equal(right.length, 3);
      assert.deepEqual(failing(right), [], `${method.kind}: ${right.map(f => f.detail).join('; ')}`);
      const faults: [string, (found: Found) => Found, number][] = [
        ['10% too long', scaled(() => 1.1), 0],
        ['the wrong sign', scaled(() => -1), 0],
        ['half of it missing', scaled((at, n) => (at < n / 2 ? 0 : 1)), 1],
        ['a norm that leaves something out', found => ({ ...found, norms: found.norms.map(x => 0.9 * x) }), 2],
      ];
      for (const [what, fault, which] of i === 0 ? faults : []) {
        const found = await gradientFindings({ ...check, stream: stream(), gradients: broken(fault) });
        assert.ok(
          !found[which]!.ok || !found[1]!.ok,
          `${method.kind}, ${what}: ${found.map(f => f.detail).join('; ')}`,
        );
      }
      dispose();
    }
  assert.deepEqual(fingerprints(model), before, 'the check leaves no bit changed');
  model.dispose();
});

test('what must change has changed, what must not has not: by name of the weight', () => {
  const model = tiny();
  const before = fingerprints(model);
  const tf = tensorflow();
  const touch = (name: string) => model.setParameter(name, tf.keep(tf.add(model.parameter(name), 1e-7)));
  touch('model.norm.weight');
  const trained = new Set(['model.norm.weight']);
  assert.deepEqual(failing(changeFindings(before, fingerprints(model), trained)), []);
  const still = changeFindings(
    before,
    fingerprints(model),
    new Set([...trained, 'model.layers.0.input_layernorm.weight']),
  );
  assert.deepEqual(failing(still), ['trained weights have changed']);
  assert.match(still[0]!.detail, /unchanged are 1: model\.layers\.0\.input_layernorm/);
  touch('model.layers.1.mlp.up_proj.weight');
  const moved = changeFindings(before, fingerprints(model), trained);
  assert.deepEqual(failing(moved), ['frozen weights are unchanged']);
  assert.throws(() => requireAll(moved), {
    code: 'corrupt',
    message:
      /the training's own check failed: frozen weights are unchanged \(changed are 1: model\.layers\.1\.mlp\.up_proj/,
  });
  model.dispose();
});

test('a probe that is no number, or far worse than before and than chance', () => {
  const ok = (before: number, after: number): boolean => probeFinding(before, after, 259).ok;
  assert.ok(ok(4, 4.3) && ok(4, 6.5) && ok(9, 9.4));
  assert.ok(!ok(4, Number.NaN) && !ok(4, 7) && !ok(9, 9.6) && !ok(4, Number.POSITIVE_INFINITY));
});

const plan = (units: number) =>
  makePlan({
    ...{ units, expectedUnits: units, sampleRate: 1, steps: 2, delta: 1e-5, noiseMultiplier: 1, unit: 'user', seed },
    clip: { kind: 'flat', bound: 0.1 },
  });
/** The noise is not what the plan says it is; the plan still says it. */
const noised = (of: DpPlan, share: number): DpPlan => ({
  ...of,
  noise: (step, n, part) => of.noise(step, n, part).map(x => x * share),
  meanNoise: (step, n, part) => tensorflow().mul(of.meanNoise(step, n, part), share),
});

test('noise that is not there, or not as large as accounted for, ends the training at its first step', async () => {
  const run = async (share: number): Promise<unknown> => {
    const model = tiny();
    try {
      return await trainToEnd({
        model,
        method: { kind: 'full' },
        units: [[example(0)], [example(2)]],
        plan: noised(plan(2), share),
        seed,
      });
    } finally {
      model.dispose();
    }
  };
  await run(1);
  for (const share of [0, 0.5, 0.9, 2])
    await assert.rejects(run(share), { code: 'corrupt', message: /noise of a step/ });
});

const labels = ['lost card', 'exchange rate', 'refund'];
const stream = streamFor(seed, 'features');
const feature = (): Float32Array => stream.normal(24);
const publicFeatures = PUBLIC_SENTENCES.slice(0, 60).map(feature);
const labelFeatures = labels.map(label => labelSentences(label).map(feature));
const headOf = (of: DpPlan) =>
  trainHead({
    ...{ task: 't', labels, publicFeatures, labelFeatures, layer: 1, featuresSha256: '0', privacy: of },
    units: Array.from({ length: 40 }, (_, i) => ({ user: `u${i}`, examples: [{ feature: feature(), label: i % 3 }] })),
  });

test('a head: every check passes, and each fails for the fault it is there for', async () => {
  const { head, change } = await headOf(plan(40));
  const check = (over: Partial<Head> = {}, changed = change): string[] =>
    failing(
      headFindings({
        head: { ...head, ...over },
        publicFeatures,
        labelFeatures,
        change: changed,
        stream: streamFor(seed, 'check'),
      }),
    );
  assert.deepEqual(check(), []);
  assert.deepEqual(check({}, 0), ['trained weights have changed']);
  assert.deepEqual(check({ bias: Float32Array.of(0, 1e-3, 0) }), ['frozen weights are unchanged']);
  assert.deepEqual(check({ mean: head.mean.map(x => x + 1e-6) }), ['frozen weights are unchanged']);
  assert.deepEqual(check({ weight: head.weight.map(x => -50 * x) }), ['loss on the public probe']);
  assert.ok(
    check({ weight: head.weight.map((x, i) => (i === 3 ? Number.NaN : x)) }).includes('trained weights have changed'),
  );
  await assert.rejects(headOf(noised(plan(40), 0.4)), { code: 'corrupt', message: /noise of a step/ });
});
