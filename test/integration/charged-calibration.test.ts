import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { neededOf, pruneByText } from '../../src/learn/compress/by-text.ts';
import {
  type ChargedRequest,
  chargedStatistics,
  clippedSum,
  publicNorm,
  unitVector,
} from '../../src/learn/compress/charged.ts';
import { calibrationStatistics } from '../../src/learn/compress/statistics.ts';
import { readStatistics, writeStatistics } from '../../src/learn/compress/statistics-file.ts';
import { CHANNELS, eachUnit, type UnitStatistics } from '../../src/learn/compress/unit-statistics.ts';
import { loadEngineModel } from '../../src/learn/model/engine/index.ts';
import type { ModelConfig } from '../../src/learn/model/types.ts';
import { epsilon } from '../../src/learn/privacy/accountant.ts';
import { gaussianEpsilon } from '../../src/learn/privacy/gaussian.ts';
import { makePlan } from '../../src/learn/privacy/index.ts';
import { PUBLIC_SENTENCES } from '../../src/learn/training/public-text.ts';
import { workOf } from '../../src/loop/round/work.ts';
import { listLedger } from '../../src/store/ledger.ts';
import { getVersion } from '../../src/store/versions.ts';
import { testFolder } from '../support/daemon.ts';
import { weightSource } from '../support/engine-golden.ts';
import { roundDeployment } from '../support/rounds.ts';

const golden = JSON.parse(readFileSync(new URL('../golden/prune.json', import.meta.url), 'utf8')) as {
  config: ModelConfig;
  weights: Parameters<typeof weightSource>[0];
};
const source = { config: golden.config, weights: weightSource(golden.weights) };
const { layers, ffn } = golden.config;
const text = (i: number, length: number, of = 32): number[] =>
  Array.from({ length }, (_, t) => (i * 7 + t * t * 3 + (i % 5) * t) % of);
const publicText = Array.from({ length: 40 }, (_, i) => text(i, 5 + (i % 6)));
/** Of few tokens: unlike public text; some units have several texts, one is a giant, one has none. */
const units = Array.from({ length: 60 }, (_, i) =>
  i === 0 ? [text(1, 60, 4), text(2, 60, 4), text(3, 60, 4)] : i === 1 ? [[]] : [text(i, 4 + (i % 9), 9)],
);
const planOf = (count: number, noise: { epsilon: number } | { noiseMultiplier: number }, seed?: Uint8Array) =>
  makePlan({
    ...{ units: count, expectedUnits: count, steps: 1, delta: 1e-5, unit: 'user', ...noise },
    ...{ clip: { kind: 'flat', bound: 1 }, ...(seed && { seed }) },
  });
const model = loadEngineModel(source);
test.after(() => model.dispose());
const needed = neededOf(golden.config, { ffn: 32, dropLayers: layers > 2 ? 1 : 0 });
const requestOf = (of: ChargedRequest['units'], noise: { epsilon: number } | { noiseMultiplier: number }) => ({
  ...{ model, units: of, publicText, plan: planOf(of.length, noise), ...needed },
});
const length = (x: Float64Array) => Math.sqrt(x.reduce((sum, v) => sum + v * v, 0));

test("a unit's statistics are those of the whole pass, batched or not", async () => {
  const all = units.flat().filter(sequence => sequence.length > 0);
  const whole = calibrationStatistics(model, all);
  const found: UnitStatistics[] = [];
  for (const maxTokens of [64, 4096])
    await eachUnit(model, [all], { channels: CHANNELS, maxTokens }, (_, statistics) => found.push(statistics));
  const near = (a: ArrayLike<number>, b: ArrayLike<number>) =>
    Array.from(a, (v, i) => assert.ok(Math.abs(v - b[i]!) < 1e-5 + 1e-4 * Math.abs(b[i]!), `${v}, not ${b[i]}`));
  for (const { channels, influence } of found) {
    near(influence, whole.influence);
    for (const layer of ffn.keys()) {
      near(channels.mean![layer]!, whole.mean[layer]!);
      near(channels.meanAbs![layer]!, whole.meanAbs[layer]!);
      const squares = whole.variance[layer]!.map((v, j) => Math.sqrt(v + whole.mean[layer]![j]! ** 2));
      near(channels.rms![layer]!, squares);
    }
  }
});

test('sensitivity: no unit, however large or strange, moves the sum by more than 1', async () => {
  const request = requestOf(units, { noiseMultiplier: 1 });
  const norm = await publicNorm(request);
  const sum = await clippedSum(request, norm);
  for (const gone of [0, 1, 2, 17]) {
    const rest = units.filter((_, u) => u !== gone);
    const without = await clippedSum({ ...request, units: rest }, norm);
    const moved = length(sum.map((v, i) => v - without[i]!));
    if (gone === 1) assert.equal(moved, 0, 'a unit without text counts as absent');
    else assert.ok(moved > 0.1 && moved <= 1 + 1e-6, `${gone}: ${moved}`);
  }
  let most = 0;
  await eachUnit(model, units, { channels: needed.channels }, (_, statistics) => {
    most = Math.max(most, length(unitVector(statistics, norm)));
  });
  assert.ok(most > 0.9 && most <= 1 + 1e-9);
  const broken = {
    channels: { mean: ffn.map(w => new Float32Array(w).fill(Number.NaN)) },
    influence: new Float32Array(layers),
  };
  const odd = { ...broken.channels, rms: broken.channels.mean };
  assert.equal(length(unitVector({ ...broken, channels: odd }, norm)), 0);
});

test('the release: noise of the stated deviation on every coordinate, once; its mechanism replays to the epsilon asked for', async () => {
  const request = requestOf(units, { epsilon: 2 });
  const { plan } = request;
  const norm = await publicNorm(request);
  const sum = await clippedSum(request, norm);
  const drawn: Float32Array[] = [];
  const spied = {
    ...plan,
    noise: (...args: Parameters<typeof plan.noise>) => drawn[drawn.push(plan.noise(...args)) - 1]!,
  };
  await chargedStatistics({ ...request, plan: spied });
  assert.equal(drawn.length, 1);
  assert.equal(drawn[0]!.length, sum.length);
  const deviation = Math.sqrt(drawn[0]!.reduce((total, v) => total + v * v, 0) / sum.length);
  assert.ok(Math.abs(deviation / plan.noiseMultiplier - 1) < 4 / Math.sqrt(2 * sum.length), `${deviation}`);
  await assert.rejects(chargedStatistics(request), /handed out already/);

  const { mechanisms } = plan;
  assert.deepEqual(
    mechanisms.map(({ sample_rate, steps }) => [sample_rate, steps]),
    [[1, 1]],
  );
  const exact = gaussianEpsilon(1 / mechanisms[0]!.noise_multiplier, 1e-5);
  assert.ok(Math.abs(exact - 2) < 1e-3, `${exact}`);
  for (const accountant of ['rdp', 'prv'] as const) {
    const found = epsilon(mechanisms, 1e-5, accountant);
    assert.ok(found >= exact - 1e-9 && found < (accountant === 'prv' ? 2.01 : 2.6), `${accountant}: ${found}`);
  }
});

test('without noise it says how private text differs from public text; under much noise it says what public text says', async () => {
  const request = requestOf(units, { noiseMultiplier: 1e-9 });
  const norm = await publicNorm(request);
  const clear = await chargedStatistics(request);
  assert.equal(clear.units, 59);
  assert.ok(clear.kept > 0.999);
  const direct = calibrationStatistics(model, units.flat());
  const off = (found: readonly Float64Array[]) =>
    found.flatMap((row, l) => Array.from(row, (v, j) => (v - direct.mean[l]![j]!) ** 2)).reduce((a, b) => a + b, 0);
  assert.ok(off(clear.mean) < 0.5 * off(norm.public.mean), 'nearer to the private text than public text is');
  const loud = await chargedStatistics(requestOf(units, { noiseMultiplier: 1000 }));
  assert.ok(loud.kept < 0.1 && loud.variance.every(row => row.every(v => v >= 0)));
  const same = await chargedStatistics(
    requestOf(
      publicText.map(tokens => [tokens]),
      { noiseMultiplier: 1e-9 },
    ),
  );
  assert.ok(off(same.mean) > off(clear.mean));
  for (const [l, row] of same.influence.entries()) assert.ok(Math.abs(row - norm.publicInfluence[l]!) < 0.05);
});

test('pruning follows from the release alone; a file carries it; what no release tells is refused', async t => {
  const statistics = await chargedStatistics(requestOf(units, { epsilon: 8 }));
  const never = () => assert.fail('the text was looked at');
  const pruned = pruneByText(source, never, [], { ffn: 32 }, { statistics });
  assert.ok(pruned.config.ffn.every(width => width === 32));
  assert.equal(pruned.config.downBias, true);
  const path = join(testFolder(t, 'charged'), 'statistics.safetensors');
  await writeStatistics(path, statistics);
  const read = readStatistics(path, ffn);
  assert.deepEqual([...read.variance[0]!], [...Float32Array.from(statistics.variance[0]!)]);
  assert.throws(
    () =>
      readStatistics(
        path,
        ffn.map(width => width + 1),
      ),
    { code: 'corrupt' },
  );
  assert.throws(() => neededOf(golden.config, { ffn: 32, method: 'random' }), { field: 'calibration' });
  assert.throws(() => neededOf(golden.config, { dropLayers: 1, layersBy: 'sleb' }), /looked at once|between 0 and/);
  assert.throws(() => neededOf(golden.config, { ffn: 33 }), { field: 'ffn' });
  await assert.rejects(chargedStatistics({ ...requestOf(units, { epsilon: 1 }), units: units.slice(1) }), {
    field: 'units',
  });
});

const texts = (from: number, to: number) =>
  PUBLIC_SENTENCES.slice(from, to).map((sentence, i) => ({ user: `u${i % 20}`, text: sentence.slice(0, 24) }));

test('a round: reserved, released once, settled; refused when the budget is spent; nothing secret stays', async t => {
  const d = await roundDeployment(t, { settings: { 'privacy.expected_users': 20 } });
  await d.document(texts(60, 120));
  const prune = { do: 'prune', ffn: 32, calibration: 'private' } as const;
  const unsaid = await d.run([prune]);
  assert.deepEqual([unsaid.state, /say what it may cost/.test(unsaid.error!)], ['refused', true]);
  const free = await d.run([{ do: 'prune', ffn: 32, calibration: 'public', epsilon: 1 }]);
  assert.match(free.error!, /belongs to calibration: private/);
  assert.equal((await listLedger(d.db)).length, 0);

  const round = await d.run([{ ...prune, epsilon: 5 }]);
  assert.deepEqual([round.state, round.error], ['published', null]);
  const ledger = (await listLedger(d.db)).reverse();
  assert.deepEqual(
    ledger.map(row => row.entry),
    ['reserve', 'declare', 'settle', 'declare'],
  );
  assert.deepEqual(ledger[2]!.mechanism, ledger[0]!.mechanism);
  assert.ok(Math.abs(epsilon(ledger[2]!.mechanism as never, 1e-6) - 5) < 0.01);
  assert.equal(round.epsilon, epsilon(ledger[2]!.mechanism as never, 1e-6));
  assert.match(workOf(round).notes!.join('\n'), /calibration: \d+ units counted, \d+% of their differences/);
  assert.ok(!JSON.stringify(round.work).includes('seed'), 'a seed was left behind');
  const { manifest } = await getVersion(d.db, 2);
  assert.ok(manifest.model.parameters < (await getVersion(d.db, 1)).manifest.model.parameters);

  const workers = d.workers.length;
  const over = await d.run([{ ...prune, epsilon: 6 }]);
  assert.deepEqual([over.state, /the limit is 8/.test(over.error!), d.workers.length], ['refused', true, workers]);
  const twice = await d.run([
    { ...prune, epsilon: 1 },
    { ...prune, epsilon: 1 },
  ]);
  assert.match(twice.error!, /prune appears twice in one round/);
  // A width that cannot be is seen before anything is released, and costs nothing.
  const wrong = await d.run([{ ...prune, ffn: 40, epsilon: 1 }]);
  assert.deepEqual([wrong.state, wrong.epsilon], ['failed', 0]);
  assert.match(wrong.error!, /not a multiple of 32/);
});
