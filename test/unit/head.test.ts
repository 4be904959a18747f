import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { weightedF1 } from '../../src/learn/metrics/index.ts';
import { headScores, readHead, saveHead } from '../../src/learn/model/head.ts';
import { epsilon, SecureStream } from '../../src/learn/privacy/index.ts';
import {
  HEAD_STEPS,
  type HeadRequest,
  type HeadUnit,
  headPlan,
  labelSentences,
  totalRate,
  trainHead,
} from '../../src/learn/training/head.ts';
import { HeadGradients } from '../../src/learn/training/head-kernels.ts';
import { publicStatistics, standardise, TrainingSpace } from '../../src/learn/training/head-space.ts';

const near = (found: number, expected: number, tolerance: number): void => {
  assert.ok(Math.abs(found - expected) <= tolerance, `${found} is not ${expected} to ${tolerance}`);
};
const seed = new Uint8Array(32).fill(3);
const stream = new SecureStream(seed);
const HIDDEN = 24;

/** A task whose labels lie around centres; their names hint at them. */
function task(labels: number, users: number, perUser: number, noise = 0.8): HeadRequest {
  const centres = Array.from({ length: labels }, () => stream.normal(HIDDEN));
  const around = (label: number, spread: number): Float32Array =>
    stream.normal(HIDDEN, spread).map((x, i) => x + centres[label]![i]!);
  return {
    task: 'intent',
    labels: centres.map((_, i) => `label_${i}`),
    units: Array.from({ length: users }, (_, u) => ({
      user: `u${u}`,
      examples: Array.from({ length: perUser }, () => {
        const label = stream.below(labels);
        return { feature: around(label, noise), label };
      }),
    })),
    publicFeatures: Array.from({ length: 120 }, () => stream.normal(HIDDEN, 1.2)),
    labelFeatures: centres.map((_, label) => Array.from({ length: 3 }, () => around(label, 2.5))),
    privacy: { epsilon: 8, delta: 1e-6, expectedUnits: 300 },
    layer: 10,
    featuresSha256: 'a'.repeat(64),
  };
}

function score(head: Parameters<typeof headScores>[0], units: readonly HeadUnit[]): number {
  const rows = units.flatMap(unit => unit.examples);
  const predicted = rows.map(({ feature }) => {
    const scores = headScores(head, feature);
    return String(scores.indexOf(Math.max(...scores)));
  });
  return weightedF1(
    rows.map(row => String(row.label)),
    predicted,
  ).weighted!;
}

interface Golden {
  public: number[][];
  labels: number[][][];
  users: { x: number[][]; y: number[] }[];
  weight: number[][];
  probe: number[][];
  scores: number[][];
}

test('a head trained without noise equals numpy with full matrices', async () => {
  const golden = JSON.parse(readFileSync(new URL('../golden/head.json', import.meta.url), 'utf8')) as Golden;
  const vector = (x: number[]): Float32Array => Float32Array.from(x);
  const {
    head,
    losses,
    epsilon: spent,
  } = await trainHead({
    task: 't',
    labels: golden.labels.map((_, i) => `l${i}`),
    units: golden.users.map(({ x, y }, u) => ({
      user: `u${u}`,
      examples: x.map((feature, i) => ({ feature: vector(feature), label: y[i]! })),
    })),
    publicFeatures: golden.public.map(vector),
    labelFeatures: golden.labels.map(rows => rows.map(vector)),
    privacy: null,
    layer: 1,
    featuresSha256: '',
  });
  const size = Math.max(...golden.weight.flat().map(Math.abs));
  golden.weight.flat().forEach((w, i) => {
    near(head.weight[i]!, w, 1e-4 * size);
  });
  golden.probe.forEach((x, i) => {
    headScores(head, vector(x)).forEach((p, c) => {
      near(p, golden.scores[i]![c]!, 2e-4);
    });
  });
  assert.ok(losses.at(-1)! < losses[0]!);
  assert.equal(spent, null);
});

test('clipped sums equal plain loops over units, whatever is drawn; a unit that is not finite adds nothing', () => {
  const [hidden, labels] = [7, 5];
  const sizes = [1, 3, 2, 6, 1];
  const rows = sizes.reduce((a, b) => a + b);
  const features = stream.normal(rows * hidden);
  const truth = Int32Array.from({ length: rows }, () => stream.below(labels));
  let at = 0;
  const units = sizes.map(n => {
    at += n;
    return { from: at - n, to: at };
  });
  features[units[4]!.from * hidden] = Number.NaN;
  const weight = Float64Array.from(stream.normal(labels * hidden));
  const clip = (norm: number): number => Math.min(1, 0.4 / norm);
  const gradients = new HeadGradients(features, truth, units, { hidden, labels });
  for (const drawn of [undefined, [0, 2, 4], []]) {
    const { sum, loss } = gradients.sum(weight, clip, drawn);
    const expected = new Float64Array(labels * hidden);
    let nats = 0;
    for (const u of drawn ?? [0, 1, 2, 3, 4]) {
      if (u === 4) continue;
      const { from, to } = units[u]!;
      const own = new Float64Array(labels * hidden);
      for (let row = from; row < to; row++) {
        const x = features.subarray(row * hidden, (row + 1) * hidden);
        const z = Array.from({ length: labels }, (_, c) => x.reduce((s, v, i) => s + v * weight[c * hidden + i]!, 0));
        const total = z.reduce((s, v) => s + Math.exp(v), 0);
        nats -= (z[truth[row]!]! - Math.log(total)) / (to - from);
        for (let c = 0; c < labels; c++) {
          const error = Math.exp(z[c]!) / total - (c === truth[row] ? 1 : 0);
          for (let i = 0; i < hidden; i++) own[c * hidden + i]! += (error * x[i]!) / (to - from);
        }
      }
      const factor = clip(Math.hypot(...own));
      own.forEach((v, i) => {
        expected[i]! += factor * v;
      });
    }
    near(loss, nats, 1e-5);
    expected.forEach((v, i) => {
      near(sum[i]!, v, 1e-6);
    });
  }
  gradients.dispose();
});

test('the training space evens public text out, and folds into weights', () => {
  const mix = Array.from({ length: 400 }, () => {
    const x = stream.normal(6);
    return x.map((value, i) => value * (i + 1) + (i > 0 ? 0.5 * x[i - 1]! : 0));
  });
  const { mean, scale } = publicStatistics(mix);
  const x = mix.map(f => standardise(f, mean, scale));
  for (const v of x) near(Math.hypot(...v), 1, 1e-5);
  const space = new TrainingSpace(x, 1e-9);
  const y = x.map(v => space.into(v));
  const moment = (i: number, j: number): number => y.reduce((s, v) => s + v[i]! * v[j]!, 0) / y.length;
  for (let i = 0; i < 6; i++) for (let j = 0; j < 6; j++) near(moment(i, j) / moment(0, 0), i === j ? 1 : 0, 1e-3);
  near(y.reduce((s, v) => s + Math.hypot(...v), 0) / y.length, 1, 1e-5);
  const weight = Float64Array.from(stream.normal(2 * 6));
  const folded = space.fold(weight);
  space.unfold(folded).forEach((value, i) => {
    near(value, weight[i]!, 1e-4);
  });
  for (const row of [0, 1]) {
    const dot = (w: ArrayLike<number>, v: Float32Array): number =>
      v.reduce((s, value, i) => s + w[row * 6 + i]! * value, 0);
    near(dot(folded, x[0]!), dot(weight, y[0]!), 1e-4);
  }
  assert.deepEqual(standardise(new Float32Array(6), mean, scale), new Float32Array(6), 'the empty text');
});

test('private training learns, spends what it says, and tells no losses', async () => {
  const request = task(6, 300, 4);
  const trained = await trainHead({ ...request, seed });
  assert.equal(trained.epsilon, epsilon(trained.mechanisms, 1e-6));
  assert.ok(trained.epsilon! <= 8 && trained.epsilon! > 7.9);
  assert.deepEqual(trained.mechanisms, [
    { noise_multiplier: trained.noiseMultiplier, sample_rate: 1, steps: HEAD_STEPS },
  ]);
  assert.deepEqual(trained.losses, []);
  assert.ok(trained.change > 0);
  const start = await trainHead({
    ...request,
    units: [],
    privacy: headPlan({ units: 0, expectedUnits: 1e9, epsilon: 8, delta: 1e-6 }),
  });
  assert.ok(score(trained.head, request.units) > 0.93);
  assert.ok(
    score(trained.head, request.units) > score(start.head, request.units) + 0.1,
    'better than from names alone',
  );
});

test('a head goes on from one released before, label by label; one of other features is left aside', async () => {
  const request = task(4, 60, 3);
  const plain = { ...request, privacy: null };
  const before = (
    await trainHead({
      ...plain,
      labels: request.labels.slice(0, 3),
      labelFeatures: request.labelFeatures.slice(0, 3),
      units: request.units.map(u => ({ ...u, examples: u.examples.filter(e => e.label < 3) })),
    })
  ).head;
  const first = async (more: Partial<HeadRequest>) =>
    (await trainHead({ ...plain, ...more, onStep: () => false })).losses[0]!;
  assert.ok((await first({ before })) < (await first({})) - 0.1, 'it knows three of four labels');
  const other = { ...before, mean: before.mean.map(v => v + 1) };
  assert.equal(await first({ before: other }), await first({}));
});

test('a seed replays the training; without one the noise is new', async () => {
  const request = task(3, 20, 2);
  const one = await trainHead({ ...request, seed });
  assert.deepEqual((await trainHead({ ...request, seed })).head.weight, one.head.weight);
  assert.notDeepEqual((await trainHead(request)).head.weight, one.head.weight);
});

test('a user is one unit however the rows come, and a user with broken features counts as absent', async () => {
  const request = task(3, 12, 4);
  const [first, ...rest] = request.units;
  const plan = () => headPlan({ units: 12, expectedUnits: 300, epsilon: 8, delta: 1e-6, seed });
  const whole = await trainHead({ ...request, privacy: plan() });
  const split = [first!, ...rest, { user: 'u0', examples: [] }].flatMap(({ user, examples }) =>
    examples.map(example => ({ user, examples: [example] })),
  );
  assert.deepEqual((await trainHead({ ...request, units: split, privacy: plan() })).head.weight, whole.head.weight);
  const broken = { user: 'x', examples: [{ feature: new Float32Array(HIDDEN).fill(Number.NaN), label: 0 }] };
  const more = headPlan({ units: 13, expectedUnits: 300, epsilon: 8, delta: 1e-6, seed });
  const withBroken = await trainHead({ ...request, units: [...request.units, broken], privacy: more });
  assert.deepEqual(withBroken.head.weight, whole.head.weight);
});

test('with nobody there the noise is added all the same', async () => {
  const request = { ...task(3, 0, 0), seed };
  const { change, mechanisms } = await trainHead(request);
  assert.ok(change > 0 && mechanisms[0]!.steps === HEAD_STEPS);
});

test('stopping early charges the steps taken', async () => {
  const trained = await trainHead({ ...task(3, 30, 2), onStep: step => step < 5 });
  assert.equal(trained.steps, 5);
  assert.equal(trained.mechanisms[0]!.steps, 5);
  assert.ok(epsilon(trained.mechanisms, 1e-6) < 4);
});

test('rates follow from public numbers: labels, divisor, noise', () => {
  const plan = (request: object) => headPlan({ units: 9, expectedUnits: 300, epsilon: 8, delta: 1e-6, ...request });
  assert.equal(totalRate(3, plan({})), 300);
  assert.equal(totalRate(3, plan({ units: 900 })), 300, 'the private count does not move it');
  assert.ok(totalRate(40, plan({})) < 1000, 'bounded by the noise');
  assert.ok(totalRate(40, plan({ epsilon: 1 })) < totalRate(40, plan({})) / 4);
});

test('what does not fit is refused by field', async () => {
  const request = task(3, 4, 2);
  const rejects = (change: Partial<HeadRequest>, field: RegExp) =>
    assert.rejects(trainHead({ ...request, ...change }), (error: Error & { field?: string }) =>
      field.test(error.field ?? ''),
    );
  await rejects({ labels: ['one'] }, /labels/);
  await rejects({ labelFeatures: [] }, /labelFeatures/);
  await rejects({ publicFeatures: [] }, /publicFeatures/);
  await rejects({ units: [{ user: 'a', examples: [{ feature: new Float32Array(HIDDEN), label: 3 }] }] }, /units/);
  await rejects({ units: [{ user: 'a', examples: [{ feature: new Float32Array(2), label: 0 }] }] }, /units/);
  await rejects({ privacy: headPlan({ units: 9, expectedUnits: 300, epsilon: 1, delta: 1e-6 }) }, /privacy/);
  await rejects({ privacy: null, units: [] }, /units/);
  await rejects({ privacy: { epsilon: -1, delta: 1e-6, expectedUnits: 300 } }, /epsilon/);
  await rejects({ privacy: { epsilon: 1, delta: 1e-6, expectedUnits: 0 } }, /expectedUnits/);
});

test('label sentences read a name with spaces; dollar signs are just text', () => {
  assert.ok(labelSentences('card_not_working').includes('I have a question about card not working.'));
  assert.ok(labelSentences('$&').every(sentence => sentence.includes('$&')));
});

test('a head comes back from its file as it was; a file that does not fit is corrupt', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'learnd-head-'));
  try {
    const { head } = await trainHead(task(5, 10, 2));
    const path = join(folder, 'head.safetensors');
    await saveHead(path, head);
    const back = readHead(path, head);
    assert.deepEqual(back, head);
    const feature = stream.normal(HIDDEN);
    const scores = headScores(back, feature);
    near(
      scores.reduce((a, b) => a + b),
      1,
      1e-12,
    );
    assert.deepEqual(headScores(back, new Float32Array(HIDDEN)), new Float64Array(5).fill(0.2), 'the empty text');
    assert.throws(() => readHead(path, { ...head, labels: ['a', 'b'] }), { code: 'corrupt' });
    writeFileSync(path, 'nothing');
    assert.throws(() => readHead(path, head), { code: 'corrupt' });
  } finally {
    rmSync(folder, { recursive: true });
  }
});
