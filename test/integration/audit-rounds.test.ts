import assert from 'node:assert/strict';
import test, { type TestContext } from 'node:test';
import type { DaemonClient } from '../../src/cli/client.ts';
import { humanReport, humanVerified, report, verify } from '../../src/cli/privacy.ts';
import type { ActionOf } from '../../src/events/actions.ts';
import { loadEngineModel } from '../../src/learn/model/engine/model.ts';
import { streamFor } from '../../src/learn/privacy/noise.ts';
import { tensorflow } from '../../src/learn/tensor/backend.ts';
import { randomWeights } from '../../src/learn/training/index.ts';
import { requireAll } from '../../src/learn/training/self-check.ts';
import { beforeTraining } from '../../src/learn/worker/jobs/self-check.ts';
import { CHECK_SENTENCES } from '../../src/learn/worker/jobs/text-training.ts';
import { auditOf, canariesOf, takingPart } from '../../src/loop/round/canaries.ts';
import type { Compute, Verdict } from '../../src/loop/round/index.ts';
import { adminHandlers } from '../../src/serve/admin.ts';
import { getFact } from '../../src/store/facts.ts';
import { pretendDeployment, score } from '../support/pretend-rounds.ts';
import { roundDeployment } from '../support/rounds.ts';
import { byteToken, TINY } from '../support/tiny-model.ts';

const train: ActionOf<'finetune'> = {
  do: 'finetune',
  data: 'documents',
  method: 'norms',
  objective: 'auto',
  epsilon: 0.3,
  max_minutes: 1,
};
const privacy = { expected_users: 200, examples_per_user: 32, canaries: 4 };
const training = (byte = 7) => ({
  kind: 'norms' as const,
  minutes: 1,
  noise: {
    noiseMultiplier: 1,
    sampleRate: 1,
    steps: 1,
    clip: { kind: 'auto-s' as const },
    expectedUnits: 200,
    delta: 1e-6,
    seed: byte.toString(16).padStart(2, '0').repeat(32),
  },
});
const settings = (change: Partial<typeof privacy> = {}) =>
  ({ settings: { privacy: { ...privacy, ...change } } }) as Parameters<typeof canariesOf>[0];

test('canary users: at most 2% of the expected ones, from the sealed seed alone, each in or out by a fair coin', () => {
  const canaries = canariesOf(settings(), training())!;
  assert.equal(canaries.users.length, 4);
  assert.deepEqual(canariesOf(settings(), training()), canaries, 'a retry makes the same ones');
  assert.notDeepEqual(canariesOf(settings(), training(8)), canaries);
  assert.equal(canariesOf(settings({ expected_users: 100 }), training())!.users.length, 2);
  assert.equal(canariesOf(settings({ expected_users: 49 }), training()), undefined);
  assert.equal(canariesOf(settings({ canaries: 0 }), training()), undefined);
  assert.equal(canariesOf(settings(), { kind: 'norms', minutes: 1 }), undefined, 'none without noise');
  const all = Array.from({ length: 100 }, (_, i) => canariesOf(settings(), training(i + 1))!);
  const ins = all.reduce((sum, of) => sum + takingPart(of).length, 0);
  assert.ok(ins > 160 && ins < 240, `${ins} of 400 take part`);
  const labels = new Set(
    all.flatMap(of => canariesOf(settings(), training(of.users.length), ['a', 'b'])!.users.map(u => u.label)),
  );
  assert.deepEqual([...labels].sort(), ['a', 'b']);
});

test('evidence over rounds: what it can show is stated; chance does not freeze; a leak does', () => {
  const entry = (round: number, right: number) => ({
    round,
    epsilon: 1,
    records: Array.from({ length: 4 }, (_, i) => ({ kind: 'norms' as const, in: true, score: i < right ? 9 : 0 })),
  });
  const chance = auditOf(
    Array.from({ length: 30 }, (_, i) => entry(i, 2)),
    1e-6,
  );
  assert.deepEqual([chance.rounds, chance.canaries, chance.right, chance.bound, chance.frozen], [16, 64, 32, 0, false]);
  const leak = auditOf(
    Array.from({ length: 10 }, (_, i) => entry(i, 4)),
    1e-6,
  );
  assert.ok(leak.rounds === 8 && leak.bound > 1.2 && leak.bound === leak.largest && leak.frozen);
  const later = [
    ...Array.from({ length: 8 }, (_, i) => entry(i, 4)),
    ...Array.from({ length: 8 }, (_, i) => entry(8 + i, 2)),
  ];
  assert.ok(auditOf(later, 1e-6).frozen, 'what was shown once is not forgotten');
  const many = auditOf(
    Array.from({ length: 128 }, (_, i) => entry(i, 4)),
    1e-6,
  );
  assert.ok(many.largest > 2.5, `${many.largest}`);
  const few = auditOf([entry(1, 4)], 1e-6);
  assert.ok(few.largest < 0.5 && !few.frozen, 'four canaries cannot refute a claim of 1');
});

/** `leaks`: what took part is known by heart afterwards, as if there were no noise. */
async function deployment(t: TestContext, leaks: boolean) {
  const { d, pretend } = await pretendDeployment(t, { settings: { 'privacy.expected_users': 200 } });
  let scored = 0;
  pretend.perplexity = texts => {
    if (texts.length === CHECK_SENTENCES.length) return texts.map(() => score(1));
    // Canaries are scored twice: by the candidate, then by its parent.
    const after = scored++ % 2 === 0;
    const learned = new Set(pretend.asked.at(-1)!.documents.map(document => document.text));
    return texts.map(text => score(leaks && after && learned.has(text) ? 5 : 60 + (after ? 0 : text.length % 3)));
  };
  return { d, asked: pretend.asked, worker: pretend.worker };
}

test('a round trains on the canaries that take part, keeps its evidence without the seed, and says what it can show', async t => {
  const { d, asked } = await deployment(t, false);
  const round = await d.run([train]);
  assert.deepEqual([round.state, round.error], ['published', null]);
  const facts = (await getFact<{ round: number; records: { in: boolean; score: number }[] }[]>(d.db, 'canaries'))!;
  assert.deepEqual([facts.length, facts[0]!.round, facts[0]!.records.length], [1, round.id, 4]);
  const took = facts[0]!.records.filter(record => record.in).length;
  const documents = asked[0]!.documents;
  assert.equal(documents.filter(document => document.unit.startsWith('canary:')).length, took);
  assert.equal(documents.length, 12 + took);
  const { audit, lines } = round.verdict as Verdict;
  assert.deepEqual([audit!.rounds, audit!.canaries, audit!.frozen], [1, 4, false]);
  const line = lines.find(({ expression }) => expression === 'the canary audit')!;
  assert.equal(line.result, 'pass');
  for (const side of [audit!.exposure.in, audit!.exposure.out])
    if (side !== null) assert.ok(side.rank >= -0.1 && side.rank <= Math.log2(24) && side.extrapolated > 0);
  assert.match(line.reason!, /of 4 canaries of 1 rounds guessed right: epsilon is at least .* can show at most/);
  const sealed = (asked[0]!.steps!.noise as { seed: string }).seed;
  assert.ok(!JSON.stringify([facts, round.work]).includes(sealed));
});

test('a training that leaks: after some rounds the evidence passes the claim, and publishing freezes by name', async t => {
  const { d } = await deployment(t, true);
  const states: string[] = [];
  for (let i = 0; i < 5; i++) {
    const round = await d.run([train]);
    states.push(round.state);
    if (round.state !== 'rejected') continue;
    const { admitted, audit, lines } = round.verdict as Verdict;
    assert.ok(!admitted && audit!.bound > audit!.claim && audit!.right === audit!.canaries);
    const { in: took, out } = audit!.exposure;
    assert.ok(took!.rank > 4.5 && took!.extrapolated > 20 && out!.extrapolated < 6, JSON.stringify(audit!.exposure));
    assert.match(lines.at(-1)!.reason!, /publishing is frozen: the guarantee does not hold/);
  }
  assert.equal(states[0], 'published', 'four canaries can show too little');
  assert.equal(states.at(-1), 'rejected');
  const champion = await d.champion();
  assert.equal((await d.run([{ ...train, epsilon: 0.2 }])).state, 'rejected', 'and stays frozen');
  assert.equal(await d.champion(), champion);
});

test('privacy report and verify: spend by round and by user quantile, canaries, the chain checked', async t => {
  const { d } = await deployment(t, false);
  const handlers = adminHandlers({
    settings: d.ports.settings,
    db: () => d.db,
    artifacts: () => '',
    artifactStore: () => d.ports.artifacts,
    control: () => ({ budget: async () => ({ epsilon_spent: 0, epsilon_limit: 8, delta: 1e-6 }) }) as never,
  });
  const client = {
    get: async (path: string) =>
      JSON.parse(
        JSON.stringify(
          await handlers[`GET ${path}`]!({ params: {}, query: new URLSearchParams(), body: undefined } as never),
        ),
      ),
  } as unknown as DaemonClient;
  assert.match(humanReport(await report(client)), /no private round yet/);
  await d.run([train]);
  await d.document([{ user: 'late', text: 'a text that only the second round sees' }]);
  await d.run([{ ...train, epsilon: 0.2 }]);
  const found = await report(client);
  assert.deepEqual(
    found.rounds.map(({ state }) => state),
    ['settled', 'settled'],
  );
  const [second, first] = found.rounds;
  assert.ok(first!.epsilon > 0.29 && first!.epsilon <= 0.3 && second!.epsilon > 0.19 && second!.epsilon <= 0.2);
  assert.equal(found.users.count, 7);
  const { p50, max } = found.users.quantiles;
  assert.ok(max === found.epsilon && p50 === max && max < first!.epsilon + second!.epsilon, 'composed, never added up');
  // Six users had rows in both rounds, one in the second alone.
  const alone = await d.db.query('delete from documents where user_id <> $1', ['late']);
  assert.ok(alone);
  assert.deepEqual((await report(client)).users, {
    count: 1,
    quantiles: { p50: second!.epsilon, p90: second!.epsilon, p99: second!.epsilon, max: second!.epsilon },
  });
  assert.match(humanReport(found), /canary users: \d of 8 guessed right in 2 rounds/);
  const verified = await verify(client);
  assert.match(humanVerified(verified), /^\d+ rows, every one follows/);
  await d.db.query('alter table ledger disable trigger ledger_no_change');
  await d.db.query(`update ledger set note = 'nothing was spent' where id = 2`);
  await assert.rejects(verify(client), { code: 'corrupt', message: /does not hold at row 2: its content/ });
});

test('a training whose own check fails: the round fails by its name, charged in full, and nothing reaches the registry', async t => {
  const { d, worker } = await deployment(t, false);
  worker.call = (async () => {
    requireAll([{ check: 'frozen weights are unchanged', ok: false, detail: 'changed are 1: lm_head.weight' }]);
  }) as unknown as Compute['call'];
  const round = await d.run([train]);
  assert.deepEqual([round.state, round.candidate, await d.champion()], ['failed', null, 1]);
  assert.match(round.error!, /own check failed: frozen weights are unchanged \(changed are 1: lm_head\.weight\)/);
  assert.ok(round.epsilon > 0.29);
});

test('refused before the first step: the round fails, and nothing is charged', async t => {
  const { d, worker } = await deployment(t, false);
  const model = loadEngineModel({ config: TINY, weights: randomWeights(TINY, streamFor(new Uint8Array(32), 'w')) });
  const tf = tensorflow();
  model.setParameter(
    'model.layers.1.mlp.up_proj.weight',
    tf.keep(tf.fill(model.parameter('model.layers.1.mlp.up_proj.weight').shape, Number.NaN)),
  );
  const checkpoint = { config: TINY, tokenizer: { encode: (text: string) => [...text].map(byteToken) } };
  const context = { signal: new AbortController().signal, progress: () => undefined, breathe: async () => undefined };
  worker.call = (async () => {
    await beforeTraining({ checkpoint, model, adapter: undefined, lora: undefined } as never, context);
  }) as unknown as Compute['call'];
  const round = await d.run([train]);
  assert.deepEqual([round.state, round.candidate, round.epsilon], ['failed', null, 0]);
  assert.match(round.error!, /weights of model\.layers\.1\.mlp\.up_proj\.weight are not finite/);
  model.dispose();
});

test('canary users in rounds on feedback: units like any other, guessed by answer, pair and label', async t => {
  const tasks = [{ name: 'tone', labels: ['angry', 'happy'] }];
  const { d, pretend } = await pretendDeployment(t, { settings: { tasks, 'privacy.expected_users': 200 } });
  const users = Array.from({ length: 6 }, (_, i) => `u${i}`);
  await d.said(users.map(user => ({ user, kind: 'correction', prompt: 'how?', ideal: 'so' })));
  await d.said(users.map(user => ({ user, kind: 'preference', prompt: 'which?', chosen: 'a', rejected: 'b' })));
  await d.label(users.map((user, i) => ({ user, task: 'tone', text: `text ${i}`, label: i % 2 ? 'angry' : 'happy' })));
  const scored: (readonly string[])[] = [];
  pretend.perplexity = texts => {
    if (texts.length === CHECK_SENTENCES.length) return texts.map(() => score(1));
    scored.push(texts);
    return texts.map(text => score(text.length % 5));
  };
  pretend.worker.classify = async (_files, _task, labels, texts) => {
    scored.push(texts);
    return texts.map(text => {
      const p = 0.3 + (text.length % 5) / 10;
      return { label: labels[0]!, scores: { [labels[0]!]: p, [labels[1]!]: 1 - p } };
    });
  };
  for (const objective of ['instruct', 'preference', 'classify'] as const) {
    const round = await d.run([{ ...train, data: 'feedback', objective }]);
    assert.deepEqual([round.state, round.error], ['published', null]);
  }
  const facts = (await getFact<{ records: { kind: string; in: boolean; score: number }[] }[]>(d.db, 'canaries'))!;
  // By the candidate and its parent; of a pair both answers; labels by the candidate alone. 4 users, 24 that never take part.
  assert.deepEqual(
    scored.map(texts => texts.length),
    Array.from({ length: 2 + 4 + 1 }, () => 28),
  );
  const kinds = ['correction', 'preference', 'label'];
  for (const [i, { rows }] of pretend.feedback.entries()) {
    const { records } = facts[i]!;
    assert.ok(
      records.length === 4 && records.every(({ kind, score: of }) => kind === 'feedback' && Number.isFinite(of)),
    );
    const canaries = rows.filter(row => row.unit.startsWith('canary:'));
    assert.equal(canaries.length, records.filter(record => record.in).length);
    assert.equal(rows.length, 6 + canaries.length);
    assert.ok(canaries.every(({ kind }) => kind === kinds[i]));
    for (const row of canaries) {
      const texts = [scored[0]!, scored[2]!, scored[6]!][i]!;
      assert.ok(
        texts.includes(
          row.kind === 'correction'
            ? row.ideal
            : row.kind === 'preference'
              ? row.chosen
              : (row as { text: string }).text,
        ),
      );
    }
  }
});

test('a head trained by the real worker is audited too', async t => {
  const d = await roundDeployment(t, {
    settings: { tasks: [{ name: 'intent', labels: ['a', 'b'] }], 'privacy.expected_users': 100 },
    ports: {},
  });
  await d.label(
    Array.from({ length: 30 }, (_, i) => ({
      user: `u${i}`,
      text: `${i % 2 ? 'money' : 'card'} ${i}`,
      label: i % 2 ? 'a' : 'b',
    })),
  );
  const round = await d.run([{ ...train, data: 'feedback', method: 'head', epsilon: 2 }]);
  assert.deepEqual([round.state, round.error], ['published', null]);
  const { audit } = round.verdict as Verdict;
  assert.deepEqual([audit!.canaries, audit!.frozen], [2, false]);
  assert.ok(audit!.claim > 1.9 && audit!.claim <= 2 && audit!.largest < audit!.claim);
});
