import assert from 'node:assert/strict';
import test from 'node:test';
import { champion } from '../support/champion.ts';
import { eventually, learnd, startTestDaemon, type TestDaemon, testFolder } from '../support/daemon.ts';
import { documentEvents, documents } from '../support/documents.ts';
import { type Streamed, streamForever } from '../support/streaming.ts';

/**
 * New documents raise perplexity; rounds lower it on held-out documents: without noise on a source declared public, then under
 * privacy on a private one, by a histogram's bias alone and by what `auto` takes. The open socket proves by content which version
 * answered: the second private version differs from its parent in nothing but the bias.
 */

const SETTINGS = `
base: scratch
sources: [{ name: newsroom, public: true }]
privacy: { expected_users: 240, examples_per_user: 1 }
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
    require: documents.new >= 200
    do: [{ finetune: { data: documents, method: bias, epsilon: 8, max_minutes: 2 } }]
    cooldown: 1h
  - name: read-on
    when: champion.version == 3
    require: documents.new >= 200
    do: [{ finetune: { data: documents, method: auto, epsilon: 8, max_minutes: 2, augment: true } }]
    cooldown: 1h
budget: { epsilon: 16, delta: 1e-6 }
`;

interface Version {
  version: string;
  manifest: { model: { sha256: string }; adapter?: { sha256: string }; logit_bias?: { file: string; sha256: string } };
}

/** A greedy answer of one version, over HTTP. */
async function answer(daemon: TestDaemon, version: string): Promise<string> {
  const body = {
    model: version,
    messages: [{ role: 'user', content: 'sensor kx7 drift' }],
    max_tokens: 12,
    temperature: 0,
  };
  const said = (await daemon.post('/v1/chat/completions', body)) as { choices: { message: { content: string } }[] };
  return said.choices[0]!.message.content;
}

async function send(daemon: TestDaemon, events: readonly unknown[]): Promise<void> {
  for (let at = 0; at < events.length; at += 500) await daemon.post('/v1/documents', events.slice(at, at + 500));
}

test('documents: perplexity rises, an alarm, a public round and a private one lower it', {
  timeout: 600_000,
}, async t => {
  const daemon = await startTestDaemon(t, { data: testFolder(t, 'documents'), settings: SETTINGS, policies: POLICIES });
  const stop = new AbortController();
  const streamed: Streamed[] = [];
  // Without a pause it would keep a core from the rounds, which run at the lowest priority.
  const ask = { input: 'sensor kx7 drift', maxTokens: 12, probe: null, pauseMs: 150 };
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
    documentEvents(documents('log', 250, 2), 'newsroom-log').map(e => ({
      ...(e as object),
      data: { ...(e as { data: object }).data, source: 'newsroom' },
    })),
  );
  const first = await champion(daemon, 2, 240_000);
  assert.match(first.reason, /perplexity\.alarm/);
  assert.equal(first.epsilon, 0);
  assert.ok(
    first.verdict.candidate.perplexity < first.verdict.champion.perplexity * 0.9,
    JSON.stringify(first.verdict),
  );

  await send(
    daemon,
    documentEvents(documents('log', 300, 3), 'inbox', i => `writer-${i}`),
  );
  const second = await champion(daemon, 3, 240_000);
  assert.ok(second.epsilon > 0 && second.epsilon <= 8);
  assert.match(second.notes.join('\n'), /tokens stood out of the histogram's noise .* units counted/);
  assert.ok(second.verdict.candidate.perplexity < second.verdict.champion.perplexity, JSON.stringify(second.verdict));
  const versions = (await daemon.get('/v1/admin/versions')) as Version[];
  const [three, two] = ['learnd@3', 'learnd@2'].map(name => versions.find(v => v.version === name)!.manifest);
  assert.deepEqual([three!.model.sha256, three!.adapter?.sha256], [two!.model.sha256, two!.adapter?.sha256]);
  assert.equal(two!.logit_bias, undefined);
  assert.equal(three!.logit_bias!.file, `blobs/${three!.logit_bias!.sha256}.json`);
  // Same weights, same prompt, greedy: what differs is what the sampler adds.
  assert.notEqual(await answer(daemon, 'learnd@3'), await answer(daemon, 'learnd@2'));

  await send(
    daemon,
    documentEvents(documents('log', 300, 4), 'inbox-later', i => `writer-${i}`),
  );
  const third = await champion(daemon, 4, 240_000);
  assert.match(third.notes[0]!, /^auto: a noised histogram of tokens .*240 units at epsilon 8/);
  assert.match(third.notes[0]!, /up to 2 variants of each document count with it as one in the steps/);
  assert.ok(third.verdict.candidate.perplexity <= third.verdict.champion.perplexity * 1.02);
  t.diagnostic(
    `public ${first.verdict.champion.perplexity.toFixed(1)} -> ${first.verdict.candidate.perplexity.toFixed(1)}; ${[second, third].map(r => `private ${r.verdict.champion.perplexity.toFixed(2)} -> ${r.verdict.candidate.perplexity.toFixed(2)} at epsilon ${r.epsilon.toFixed(2)}: ${r.notes.join(' ')}`).join('; ')}`,
  );

  await eventually(
    'an answer by the newest version',
    async () => (streamed.some(s => s.version === 'learnd@4') ? true : undefined),
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
  assert.notDeepEqual([...said.get('learnd@2')!], [...said.get('learnd@3')!]);

  const exported = testFolder(t, 'export');
  const run = await learnd([
    'export',
    'learnd@3',
    '--format',
    'gguf',
    '--out',
    exported,
    '--data',
    daemon.data,
    '--json',
  ]);
  const { files, notes } = JSON.parse(run.stdout) as { files: { path: string }[]; notes: string[] };
  assert.ok(files.some(file => file.path.endsWith('logit_bias.json')));
  assert.match(notes.join(' '), /none of these formats can carry/);

  const receipt = JSON.parse((await learnd(['erase', 'writer-3', '--data', daemon.data, '--json'])).stdout) as {
    versions: { version: string; role: string; epsilon: number }[];
  };
  assert.deepEqual(
    receipt.versions.map(v => v.version),
    ['learnd@3', 'learnd@4'],
  );
  for (const { version } of receipt.versions) assert.ok(version !== 'learnd@2');

  await daemon.post('/v1/admin/rollback', {});
  await daemon.post('/v1/admin/rollback', {});
  await champion(daemon, 2, 30_000);
  assert.equal(await answer(daemon, 'learnd'), await answer(daemon, 'learnd@2'));
  const ledger = (await daemon.get('/v1/admin/ledger')) as {
    entry: string;
    mechanism: { what?: string; why?: string };
  }[];
  assert.ok(ledger.some(row => row.entry === 'declare' && /newsroom/.test(row.mechanism.why ?? '')));
});
