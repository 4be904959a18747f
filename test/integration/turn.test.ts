import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { weightedF1 } from '../../src/learn/metrics/f1.ts';
import { eventually, learnd, startTestDaemon, type TestDaemon, testFolder } from '../support/daemon.ts';
import { INTENTS, type Inquiry, inquiries, labelEvents, NEW_INTENTS, OLD_INTENTS } from '../support/inquiries.ts';
import { type Streamed, streamForever } from '../support/streaming.ts';

/**
 * The whole turn with every part real: a scratch model, 1,000 users, a shift of intents, an alarm, a rule, a private round, the gate, the swap
 * under an open socket. The full-size run with SmolLM2, Kafka and PostgreSQL is `npm run acceptance`.
 */

const SETTINGS = `
base: scratch
tasks: [{ name: intent, labels: [${INTENTS.join(', ')}] }]
privacy: { expected_users: 800, examples_per_user: 8 }
monitor: { every_seconds: 0.5, sample: 256, window: 300, minimum: 50 }
policy: { every_seconds: 0.5 }
`;

const POLICIES = `
rules:
  - name: first-head
    when: champion.version == 1
    require: feedback.new >= 1200
    do: [{ finetune: { data: feedback, method: head, epsilon: 2, max_minutes: 2 } }]
    cooldown: 1h
  - name: refresh-on-drift
    when: f1.alarm
    require: feedback.new >= 1200
    do: [{ finetune: { data: feedback, method: auto, epsilon: 4, max_minutes: 2, augment: true } }]
    cooldown: 1h
budget: { epsilon: 8, delta: 1e-6 }
`;

interface Classified {
  model: string;
  results: { label: string; scores: Record<string, number> }[];
}

async function send(daemon: TestDaemon, items: readonly Inquiry[], source: string): Promise<void> {
  const events = labelEvents(items, { source });
  for (let at = 0; at < events.length; at += 500) {
    const answer = (await daemon.post('/v1/feedback', events.slice(at, at + 500))) as {
      accepted: number;
      rejected: unknown[];
    };
    assert.deepEqual(answer.rejected, []);
  }
}

async function f1Of(daemon: TestDaemon, model: string, items: readonly Inquiry[]): Promise<number> {
  const predicted: string[] = [];
  for (let at = 0; at < items.length; at += 200) {
    const texts = items.slice(at, at + 200).map(i => i.text);
    const answer = (await daemon.post('/v1/classify', { task: 'intent', texts, model })) as Classified;
    assert.equal(answer.model, model);
    predicted.push(...answer.results.map(r => r.label));
  }
  return (
    weightedF1(
      items.map(i => i.label),
      predicted,
    ).weighted ?? 0
  );
}

const champion = (n: number) => async (daemon: TestDaemon) => {
  const status = (await daemon.get('/v1/admin/status')) as { champion: string };
  return status.champion === `learnd@${n}` ? true : undefined;
};

test('the loop closes: shift, alarm, rule, private round, gate, swap under an open socket', {
  timeout: 420_000,
}, async t => {
  const daemon = await startTestDaemon(t, { data: testFolder(t, 'turn'), settings: SETTINGS, policies: POLICIES });
  const stop = new AbortController();
  const streamed: Streamed[] = [];
  // Without a pause it would keep a core from the rounds, which run at the lowest priority.
  const streaming = streamForever(daemon, streamed, stop.signal, { pauseMs: 150 });
  t.after(() => stop.abort());

  const labelled = { users: 1000, perUser: 2 };
  await send(daemon, inquiries({ intents: OLD_INTENTS, ...labelled, seed: 1 }), 'old');
  await eventually('a first head', () => champion(2)(daemon), 120_000);
  await send(daemon, inquiries({ intents: OLD_INTENTS, users: 1000, perUser: 1, seed: 2 }), 'old-again');
  const calm = await eventually(
    'F1 known on the old intents',
    async () => {
      const { signals } = (await daemon.get('/v1/admin/status')) as { signals: Record<string, unknown> };
      return typeof signals['f1.value'] === 'number' && signals['f1.value'] > 0.7 && signals['f1.alarm'] === false
        ? signals
        : undefined;
    },
    60_000,
  );
  assert.ok((calm['f1.value'] as number) > 0.7);

  await send(daemon, inquiries({ intents: NEW_INTENTS, ...labelled, seed: 3 }), 'new');
  // Latched: raised once, and still open when the rule looks.
  const decision = await eventually(
    'the rule fires',
    async () => {
      const all = (await daemon.get('/v1/admin/decisions')) as {
        rule: string | null;
        outcome: string;
        signals: Record<string, unknown>;
        reason: string;
      }[];
      return all.find(d => d.rule === 'refresh-on-drift' && d.outcome === 'round');
    },
    120_000,
  );
  assert.equal(decision.signals['f1.alarm'], true);
  assert.match(decision.reason, /f1\.alarm/);
  await eventually('the new version is live', () => champion(3)(daemon), 180_000);
  // The monitor's next turn, on the new version, clears it.
  const cleared = await eventually(
    'the alarm is cleared',
    async () => {
      const alarms = (await daemon.get('/v1/admin/alarms')) as { signal: string; cleared_why: string | null }[];
      const f1 = alarms.filter(alarm => alarm.signal === 'f1');
      return f1.every(alarm => alarm.cleared_why !== null) ? f1 : undefined;
    },
    30_000,
  );
  assert.deepEqual(
    cleared.map(alarm => alarm.cleared_why),
    ['promoted'],
  );

  // Held-out events of the new kind: other users, another seed.
  const fresh = inquiries({ intents: NEW_INTENTS, users: 400, perUser: 1, seed: 99, prefix: 'fresh' });
  const old = inquiries({ intents: OLD_INTENTS, users: 400, perUser: 1, seed: 98, prefix: 'fresh' });
  const before = await f1Of(daemon, 'learnd@2', fresh);
  const after = await f1Of(daemon, 'learnd@3', fresh);
  const kept = await f1Of(daemon, 'learnd@3', old);
  t.diagnostic(
    `weighted F1 on new intents ${before.toFixed(3)} -> ${after.toFixed(3)}; on old ones ${kept.toFixed(3)}`,
  );
  assert.ok(after >= before + 0.3, `F1 on the new intents rose from ${before} to ${after}`);
  assert.ok(kept > 0.7, `F1 on the old intents is ${kept}`);

  // The socket stayed open; each answer names one version from its first frame to its last, and classifications prove it by content.
  await eventually(
    'an answer by the new version',
    async () => (streamed.some(s => s.version === 'learnd@3') ? true : undefined),
    60_000,
  );
  stop.abort();
  await streaming;
  assert.deepEqual(
    streamed.filter(s => s.error !== undefined),
    [],
  );
  assert.ok(streamed.some(s => s.version === 'learnd@2'));
  const mixed = streamed.filter(s => new Set(s.versions).size !== 1);
  assert.deepEqual(mixed, []);
  const byContent = streamed.filter(s => s.probe !== undefined);
  const scores = new Map<string, Set<string>>();
  for (const s of byContent) scores.set(s.probe!.model, (scores.get(s.probe!.model) ?? new Set()).add(s.probe!.scores));
  for (const [model, seen] of scores) assert.equal(seen.size, 1, `${model} answered the probe in ${seen.size} ways`);
  assert.equal(
    new Set([...scores.values()].flatMap(set => [...set])).size,
    scores.size,
    'the versions answer the probe differently',
  );

  // The ledger's epsilon is what the accountant says for the same steps.
  const status = (await daemon.get('/v1/admin/status')) as { budget: { epsilon_spent: number; delta: number } };
  const ledger = (await daemon.get('/v1/admin/ledger')) as { entry: string; mechanism: unknown[] }[];
  const file = join(daemon.data, 'mechanisms.json');
  writeFileSync(file, JSON.stringify(ledger.filter(row => row.entry === 'settle').flatMap(row => row.mechanism)));
  const said = await learnd(['privacy', 'epsilon', '--file', file, '--delta', String(status.budget.delta), '--json']);
  assert.equal(said.code, 0, said.stderr);
  assert.equal((JSON.parse(said.stdout) as { epsilon: number }).epsilon, status.budget.epsilon_spent);
  const rounds = (await daemon.get('/v1/admin/rounds')) as { epsilon: number; state: string }[];
  assert.equal(rounds.length, 2);
  assert.ok(rounds.every(r => r.epsilon > 0 && r.epsilon <= 4));
  assert.equal(await daemon.stop(), 0);
});
