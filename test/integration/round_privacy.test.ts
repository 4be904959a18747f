import assert from 'node:assert/strict';
import test from 'node:test';
import type { ActionOf } from '../../src/events/actions.ts';
import { epsilon } from '../../src/learn/privacy/accountant.ts';
import type { Mechanism } from '../../src/learn/privacy/mechanism.ts';
import { runRound } from '../../src/loop/round/index.ts';
import { type RoundWork, workOf } from '../../src/loop/round/work.ts';
import { listLedger, spent, unsettled } from '../../src/store/ledger.ts';
import { getRound } from '../../src/store/rounds.ts';
import { pretendDeployment, score } from '../support/pretend-rounds.ts';
import { admitAll } from '../support/rounds.ts';

/** Rounds with a worker that only pretends: what it is given, what is reserved, what is settled. */

const train: ActionOf<'finetune'> = {
  do: 'finetune',
  data: 'documents',
  method: 'norms',
  objective: 'auto',
  epsilon: 4,
  max_minutes: 1,
};

const entries = async (d: { db: Parameters<typeof listLedger>[0] }) =>
  (await listLedger(d.db)).reverse().map(row => row.entry);
const settled = async (d: { db: Parameters<typeof listLedger>[0] }) =>
  (await listLedger(d.db)).find(row => row.entry === 'settle')!.mechanism as Mechanism[];

test('the plan comes from public constants: twice the rows, the same noise, rate, steps and divisor', async t => {
  const { d, pretend } = await pretendDeployment(t);
  await d.run([train]);
  await d.document(Array.from({ length: 12 }, (_, i) => ({ user: `b${i}`, text: `more ${i}` })));
  await d.run([train]);
  const [one, two] = pretend.asked.map(({ noise }) => ({ ...noise, seed: undefined }));
  assert.deepEqual(one, two);
  assert.equal(one!.expectedUnits, 10);
  assert.notEqual(pretend.asked[0]!.noise!.seed, pretend.asked[1]!.noise!.seed);
  assert.deepEqual(
    pretend.asked.map(a => a.documents.length),
    [12, 24],
  );
});

test('interrupted in training: the next daemon gives the worker the same seed; one reservation, one settlement, no seed left', async t => {
  const { d, pretend } = await pretendDeployment(t);
  const stop = new AbortController();
  pretend.answer = () => {
    stop.abort();
    throw new Error('the process is gone');
  };
  const { id } = await d.begin([train]);
  await assert.rejects(runRound(d.ports, id, stop.signal), { code: 'canceled' });
  const between = await getRound(d.db, id);
  assert.deepEqual([between.state, workOf(between).begun, between.attempts], ['reserved', true, 0]);
  assert.deepEqual(await unsettled(d.db), [id]);
  const open = await spent(d.db, { delta: 1e-6, compose: epsilon });
  assert.ok(open.epsilon > 3.9 && open.epsilon <= 4, 'what may have been released counts');

  pretend.answer = () => ({});
  const round = await runRound({ ...d.ports, fence: 2 }, id, new AbortController().signal);
  assert.equal(round.state, 'published');
  assert.equal(pretend.asked[0]!.noise!.seed, pretend.asked[1]!.noise!.seed);
  assert.match(pretend.asked[0]!.noise!.seed, /^[0-9a-f]{64}$/);
  assert.ok(!JSON.stringify(round.work).includes(pretend.asked[0]!.noise!.seed));
  assert.deepEqual(await entries(d), ['reserve', 'declare', 'settle', 'declare']);
  assert.equal((await spent(d.db, { delta: 1e-6, compose: epsilon })).epsilon, open.epsilon);
});

test('out of time: only the steps taken are settled', async t => {
  const { d, pretend } = await pretendDeployment(t);
  pretend.answer = () => ({ steps: 3, outOfTime: true });
  const round = await d.run([train]);
  assert.equal(round.state, 'published');
  assert.deepEqual(
    (await settled(d)).map(m => m.steps),
    [3],
  );
  assert.ok(round.epsilon > 0 && round.epsilon < 4);
  assert.equal(round.epsilon, epsilon(await settled(d), 1e-6));
});

test('a rejected candidate has spent its cost; its figures and its files stay', async t => {
  const { d } = await pretendDeployment(t, { ports: { gate: () => ({ ...admitAll(), admitted: false }) } });
  const round = await d.run([train]);
  assert.deepEqual([round.state, await d.champion(), round.candidate], ['rejected', 1, 2]);
  assert.ok(round.epsilon > 3.9);
  assert.deepEqual(await entries(d), ['reserve', 'declare', 'settle', 'declare']);
});

test('files that do not say what the weights in memory said: failed by name, charged in full, champion and seeds untouched', async t => {
  const { d, pretend } = await pretendDeployment(t);
  pretend.perplexity = texts => texts.map(() => score(1.01));
  const round = await d.run([train]);
  assert.equal(round.state, 'failed');
  assert.match(round.error!, /own check failed: the stored files give 1\.01000 nats/);
  assert.deepEqual([await d.champion(), round.candidate], [1, null]);
  assert.deepEqual(
    (await settled(d)).map(m => m.steps),
    [pretend.asked[0]!.noise!.steps],
  );
  assert.ok(!JSON.stringify(round.work).includes('seed'));
  assert.ok(round.epsilon > 3.9);
});

test('a worker that dies each time: the round fails after the allowed tries, charged once', async t => {
  const { d, pretend } = await pretendDeployment(t);
  pretend.answer = async () => {
    const { LearndError } = await import('../../src/base/errors.ts');
    throw new LearndError('dependency', 'the compute worker ended');
  };
  const round = await d.run([train]);
  assert.deepEqual([round.state, pretend.asked.length], ['failed', 3]);
  assert.equal(new Set(pretend.asked.map(a => a.noise!.seed)).size, 1);
  assert.deepEqual(await entries(d), ['reserve', 'declare', 'settle']);
  assert.equal(round.epsilon, epsilon(await settled(d), 1e-6));
  assert.ok(round.epsilon > 3.9);
});

test('rows erased after the view was frozen are not trained on; with none left nothing is charged', async t => {
  const { d, pretend } = await pretendDeployment(t);
  const plan = d.ports.budget;
  const { id } = await d.begin([train]);
  const stop = new AbortController();
  // Stops the round between its plan and its training.
  const halted = {
    ...d.ports,
    budget: () => {
      stop.abort();
      return plan();
    },
  };
  await assert.rejects(runRound(halted, id, stop.signal), { code: 'canceled' });
  assert.equal((await getRound(d.db, id)).state, 'reserved');
  await d.db.query(`delete from documents where user_id = 'a3'`);
  await d.db.query(`update documents set excluded = 'consent' where user_id = 'a4'`);
  assert.equal((await runRound(d.ports, id, new AbortController().signal)).state, 'published');
  assert.deepEqual([...new Set(pretend.asked[0]!.documents.map(row => row.unit))].sort(), [
    'u:a0',
    'u:a1',
    'u:a2',
    'u:a5',
  ]);

  const next = await d.begin([{ ...train, epsilon: 1 }]);
  const again = new AbortController();
  await assert.rejects(
    runRound(
      {
        ...d.ports,
        budget: () => {
          again.abort();
          return plan();
        },
      },
      next.id,
      again.signal,
    ),
  );
  await d.db.query('delete from documents');
  const empty = await runRound(d.ports, next.id, new AbortController().signal);
  assert.deepEqual([empty.state, empty.epsilon], ['refused', 0]);
  assert.match(empty.error!, /erased/);
  const last = (await listLedger(d.db)).find(row => row.entry === 'settle')!;
  assert.deepEqual([last.round, last.mechanism], [next.id, []]);
  assert.deepEqual(await unsettled(d.db), []);
});

test('without noise only public rows are seen, also when another action put private ones into the view', async t => {
  const { d, pretend } = await pretendDeployment(t);
  await d.document([{ text: 'the news of today', source: 'news', public: true }]);
  const { id } = await d.begin([train, { ...train, epsilon: 'none' }]);
  const round = await runRound(d.ports, id, new AbortController().signal);
  assert.deepEqual([round.state, round.error], ['published', null]);
  const [noised, plain] = pretend.asked;
  assert.equal(noised!.documents.length, 13);
  assert.deepEqual(
    plain!.documents.map(row => row.text),
    ['the news of today'],
  );
  assert.equal((workOf(round) as RoundWork).view?.documents, 13);
});

test('at most so many rows of one user: the newest', async t => {
  const { d, pretend } = await pretendDeployment(t, { settings: { 'privacy.examples_per_user': 3 } });
  await d.document(Array.from({ length: 9 }, (_, i) => ({ user: 'many', text: `row ${i}` })));
  await d.run([train]);
  assert.deepEqual(
    pretend.asked[0]!.documents.filter(row => row.unit === 'u:many').map(row => row.text),
    ['row 6', 'row 7', 'row 8'],
  );
});

const auto = { ...train, method: 'auto' } as const;

test('auto: with many users a histogram and then steps, one reservation with both mechanisms, together within epsilon', async t => {
  const { d, pretend } = await pretendDeployment(t, { settings: { 'privacy.expected_users': 100_000 } });
  const round = await d.run([auto]);
  assert.deepEqual([round.state, round.error], ['published', null]);
  const [asked] = pretend.asked;
  const { histogram, noise } = asked!;
  assert.ok(histogram !== undefined && histogram !== 'none' && noise !== undefined);
  assert.notEqual(histogram.seed, noise.seed);
  assert.deepEqual([histogram.steps, histogram.sampleRate], [1, 1]);
  const [reserved] = (await listLedger(d.db)).filter(row => row.entry === 'reserve');
  const mechanisms = reserved!.mechanism as Mechanism[];
  assert.deepEqual(
    mechanisms.map(m => [m.noise_multiplier, m.sample_rate, m.steps]),
    [histogram, noise].map(n => [n.noiseMultiplier, n.sampleRate, n.steps]),
  );
  const together = epsilon(mechanisms, 1e-6);
  assert.ok(together <= 4 && together > 3.99, `${together}`);
  assert.deepEqual(await settled(d), mechanisms);
  assert.ok(!/seed/.test(JSON.stringify(round.work)));
  assert.match(JSON.stringify(workOf(round).notes), /auto: a noised histogram of tokens \(\d+% of the budget\), then/);
});

test('auto: with few users the histogram alone gets the whole budget', async t => {
  const { d, pretend } = await pretendDeployment(t);
  const round = await d.run([auto]);
  assert.equal(pretend.asked[0]!.steps, undefined);
  assert.match(JSON.stringify(workOf(round).notes), /the histogram alone|histogram of tokens alone/);
  assert.ok(round.epsilon <= 4 && round.epsilon > 3.99);
});

test('too little stands out of the noise: rejected with the reason, no candidate, the histogram alone is charged', async t => {
  const { d, pretend } = await pretendDeployment(t, { settings: { 'privacy.expected_users': 100_000 } });
  pretend.answer = () => ({
    nothing: 'too little to publish: 3 tokens stood out',
    steps: 0,
    model: undefined as never,
  });
  const round = await d.run([auto]);
  assert.deepEqual([round.state, round.candidate, await d.champion()], ['rejected', null, 1]);
  assert.match(round.error!, /too little to publish: 3 tokens stood out/);
  assert.match(JSON.stringify(round.verdict), /stands out of the noise/);
  const paid = await settled(d);
  assert.equal(paid.length, 1);
  assert.equal(paid[0]!.steps, 1);
  assert.ok(round.epsilon > 0 && round.epsilon < 4);
  assert.deepEqual(await entries(d), ['reserve', 'declare', 'settle']);
  assert.ok(!/seed/.test(JSON.stringify(round.work)));
});
