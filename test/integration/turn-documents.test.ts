import assert from 'node:assert/strict';
import test from 'node:test';
import { eventually, startTestDaemon, type TestDaemon, testFolder } from '../support/daemon.ts';
import { documentEvents, documents } from '../support/documents.ts';
import { type Streamed, streamForever } from '../support/streaming.ts';

/**
 * New documents raise perplexity; a round lowers it on held-out documents: without noise on a source declared public, then under
 * privacy on a private one. The language model itself changes, so the open socket proves by content which version answered.
 */

const SETTINGS = `
base: scratch
sources: [{ name: newsroom, public: true }]
privacy: { expected_users: 800, examples_per_user: 4 }
monitor: { every_seconds: 0.5, sample: 128, window: 200, minimum: 50 }
policy: { every_seconds: 0.5 }
`;

const POLICIES = `
rules:
  - name: read-the-news
    when: perplexity.alarm
    require: documents.new >= 150 && champion.version == 1
    do: [{ finetune: { data: documents, method: auto, epsilon: none, max_minutes: 2 } }]
    cooldown: 1h
  - name: read-the-inbox
    when: champion.version == 2
    require: documents.new >= 700
    do: [{ finetune: { data: documents, method: auto, epsilon: 4, max_minutes: 2 } }]
    cooldown: 1h
budget: { epsilon: 8, delta: 1e-6 }
`;

interface Round {
  state: string;
  epsilon: number;
  verdict: { champion: { perplexity: number }; candidate: { perplexity: number } };
  actions: { do: string; method: string }[];
  reason: string;
}

async function send(daemon: TestDaemon, events: readonly unknown[]): Promise<void> {
  for (let at = 0; at < events.length; at += 500) await daemon.post('/v1/documents', events.slice(at, at + 500));
}

const isChampion = async (daemon: TestDaemon, n: number) =>
  ((await daemon.get('/v1/admin/status')) as { champion: string }).champion === `learnd@${n}` ? true : undefined;

test('documents: perplexity rises, an alarm, a public round and a private one lower it', {
  timeout: 420_000,
}, async t => {
  const daemon = await startTestDaemon(t, { data: testFolder(t, 'documents'), settings: SETTINGS, policies: POLICIES });
  const stop = new AbortController();
  const streamed: Streamed[] = [];
  const ask = { input: 'sensor kx7 drift', maxTokens: 12, probe: null };
  const streaming = streamForever(daemon, streamed, stop.signal, ask);
  t.after(() => stop.abort());

  await send(daemon, documentEvents(documents('mail', 200, 1), 'newsroom'));
  const known = await eventually(
    'perplexity known',
    async () => {
      const { signals } = (await daemon.get('/v1/admin/status')) as {
        signals: Record<string, number | boolean | null>;
      };
      return typeof signals['perplexity.reference'] === 'number' && signals['documents.new'] === 0
        ? signals
        : signals['perplexity.reference']
          ? signals
          : undefined;
    },
    60_000,
  );
  assert.equal(known['perplexity.alarm'], false);

  await send(
    daemon,
    documentEvents(documents('log', 400, 2), 'newsroom-log').map(e => ({
      ...(e as object),
      data: { ...(e as { data: object }).data, source: 'newsroom' },
    })),
  );
  await eventually('the public round', () => isChampion(daemon, 2), 180_000);
  const [first] = (await daemon.get('/v1/admin/rounds')) as Round[];
  assert.match(first!.reason, /perplexity\.alarm/);
  assert.equal(first!.epsilon, 0);
  assert.ok(
    first!.verdict.candidate.perplexity < first!.verdict.champion.perplexity * 0.9,
    JSON.stringify(first!.verdict),
  );

  await send(
    daemon,
    documentEvents(documents('log', 1000, 3), 'inbox', i => `writer-${i}`),
  );
  await eventually('the private round', () => isChampion(daemon, 3), 180_000);
  const [second] = (await daemon.get('/v1/admin/rounds')) as Round[];
  assert.ok(second!.epsilon > 0 && second!.epsilon <= 4);
  assert.ok(
    second!.verdict.candidate.perplexity < second!.verdict.champion.perplexity,
    JSON.stringify(second!.verdict),
  );
  t.diagnostic(
    `public ${first!.verdict.champion.perplexity.toFixed(1)} -> ${first!.verdict.candidate.perplexity.toFixed(1)}; private ${second!.verdict.champion.perplexity.toFixed(2)} -> ${second!.verdict.candidate.perplexity.toFixed(2)} at epsilon ${second!.epsilon.toFixed(2)}`,
  );

  await eventually(
    'an answer by the newest version',
    async () => (streamed.some(s => s.version === 'learnd@3') ? true : undefined),
    60_000,
  );
  stop.abort();
  await streaming;
  assert.deepEqual(
    streamed.filter(s => s.error !== undefined),
    [],
  );
  assert.deepEqual(
    streamed.filter(s => new Set(s.versions).size !== 1),
    [],
  );
  // Greedy answers: each version says one thing, and the public round changed what it says.
  const said = new Map<string, Set<string>>();
  for (const s of streamed) said.set(s.version, (said.get(s.version) ?? new Set()).add(s.text));
  for (const [version, texts] of said)
    assert.equal(texts.size, 1, `${version} answered in ${texts.size} ways: ${[...texts].join(' | ')}`);
  assert.notDeepEqual([...said.get('learnd@1')!], [...said.get('learnd@2')!]);
  const ledger = (await daemon.get('/v1/admin/ledger')) as {
    entry: string;
    mechanism: { what?: string; why?: string };
  }[];
  assert.ok(ledger.some(row => row.entry === 'declare' && /newsroom/.test(row.mechanism.why ?? '')));
});
