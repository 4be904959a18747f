import assert from 'node:assert/strict';
import test from 'node:test';
import type { RoundRow as Stored } from '../../src/store/rounds.ts';
import { eventually, startTestDaemon, type TestDaemon, testFolder } from '../support/daemon.ts';
import { writeTinyModel } from '../support/tiny-model.ts';

type RoundRow = Stored & { readonly notes: readonly string[] };

/** Every kind of feedback on a tiny model: a rule starts each round, and the version it makes answers. */

const settings = (base: string) => `
base: ${base}
tasks: [{ name: tone, labels: [angry, happy] }]
privacy: { expected_users: 14 }
monitor: { every_seconds: 0.5, sample: 64, window: 50, minimum: 10 }
policy: { every_seconds: 0.5 }
`;
const rule = (version: number, objective: string, method: string, more = '') => `
  - name: from-${objective}
    when: champion.version == ${version}
    require: feedback.new >= 8
    do: [{ finetune: { data: feedback, method: ${method}, objective: ${objective}, epsilon: 2, max_minutes: 1${more} } }]
    cooldown: 1h`;
const POLICIES = `
rules:${rule(1, 'instruct', 'norms', ', augment: true')}${rule(2, 'preference', 'norms')}${rule(3, 'classify', 'lora', ', augment: true')}
gate: [candidate.tokens_per_second > 0]
budget: { epsilon: 8, delta: 1e-6 }
`;

const event = (type: string, id: string, data: object) => ({
  ...{ specversion: '1.0', source: 'test', id, type: `learnd.feedback.${type}` },
  data,
});
const users = <T>(make: (user: string, i: number) => T): T[] =>
  Array.from({ length: 14 }, (_, i) => make(`user${i}`, i));

async function send(daemon: TestDaemon, events: readonly object[]): Promise<void> {
  const answer = (await daemon.post('/v1/feedback', events)) as { accepted: number; rejected: unknown[] };
  assert.deepEqual([answer.accepted, answer.rejected], [events.length, []]);
}

interface Answer {
  id: string;
  model: string;
}
const ask = async (daemon: TestDaemon, user: string): Promise<Answer> =>
  (await daemon.post('/v1/responses', {
    ...{ model: 'learnd', input: 'how are you?', max_output_tokens: 8 },
    metadata: { user },
  })) as Answer;

/** Waits until the version answers, and gives the round that made it. */
async function published(daemon: TestDaemon, version: number): Promise<RoundRow> {
  return await eventually(
    `version ${version}`,
    async () => {
      const rounds = (await daemon.get('/v1/admin/rounds')) as RoundRow[];
      const failed = rounds.find(round => ['failed', 'rejected', 'refused'].includes(round.state));
      assert.equal(failed?.error ?? failed?.state, undefined);
      const { model } = await ask(daemon, 'nobody');
      return model === `learnd@${version}` ? rounds[0] : undefined;
    },
    150_000,
    500,
  );
}

test('corrections, then pairs and ratings, then labels: each becomes a version by its own rule', {
  timeout: 400_000,
}, async t => {
  const data = testFolder(t, 'said');
  const base = await writeTinyModel(data, 'base', 5);
  const daemon = await startTestDaemon(t, { data, settings: settings(base), policies: POLICIES });
  await send(
    daemon,
    users((user, i) => event('correction', `c${i}`, { user, prompt: 'how are you?', ideal: 'Very well, thank you.' })),
  );
  const instruct = await published(daemon, 2);
  assert.match(JSON.stringify(instruct), /instruct/);
  assert.match(instruct.notes.join('\n'), /up to 2 variants of each example count with it as one/);

  const events: object[] = [];
  for (let i = 0; i < 14; i++) {
    const user = `user${i}`;
    if (i % 2 === 0)
      events.push(event('preference', `p${i}`, { user, prompt: 'how are you?', chosen: 'Well.', rejected: 'No.' }));
    else {
      const { id } = await ask(daemon, user);
      events.push(event('rating', `r${i}`, { response_id: id, value: i % 4 === 1 ? 1 : -1 }));
    }
  }
  await send(daemon, events);
  const preference = await published(daemon, 3);
  assert.match(JSON.stringify(preference), /preference/);

  await send(
    daemon,
    users((user, i) => {
      const label = i % 2 === 0 ? 'angry' : 'happy';
      return event('label', `l${i}`, { user, task: 'tone', text: label === 'angry' ? 'broken!' : 'lovely', label });
    }),
  );
  const labelled = await published(daemon, 4);
  assert.match(labelled.notes.join('\n'), /method lora; up to 2 variants/);
  const classified = (await daemon.post('/v1/classify', { task: 'tone', texts: ['lovely'] })) as {
    model: string;
    results: { scores: Record<string, number> }[];
  };
  assert.equal(classified.model, 'learnd@4');
  assert.deepEqual(Object.keys(classified.results[0]!.scores), ['angry', 'happy']);
});
