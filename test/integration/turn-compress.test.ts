import assert from 'node:assert/strict';
import test from 'node:test';
import { champion } from '../support/champion.ts';
import { eventually, startTestDaemon, testFolder } from '../support/daemon.ts';
import { type Streamed, streamForever } from '../support/streaming.ts';

/**
 * A scheduled rule prunes and quantizes the champion under an open socket: the new version is smaller and faster, and its card says so. On
 * SmolLM2-135M, since the speed of a scratch model is all overhead.
 */

const SETTINGS = `
base: smollm2-135m
monitor: { every_seconds: 1 }
policy: { every_seconds: 0.5 }
`;

const POLICIES = `
rules:
  - name: slim
    schedule: "* * * * *"
    timezone: Europe/Berlin
    when: champion.version == 1
    do:
      - prune: { ffn: 768, drop_layers: 3 }
      - quantize: { type: q4_0 }
    cooldown: 1h
gate:
  - candidate.size_mb < champion.size_mb
  - candidate.tokens_per_second > champion.tokens_per_second
`;

interface Version {
  version: string;
  epsilon: number;
  evaluation: { size_mb: number; tokens_per_second: number; parameters: number };
}

test('a schedule prunes and quantizes under an open socket', { timeout: 600_000 }, async t => {
  const daemon = await startTestDaemon(t, {
    data: testFolder(t, 'compress'),
    settings: SETTINGS,
    policies: POLICIES,
    readyMs: 240_000,
  });
  const stop = new AbortController();
  const streamed: Streamed[] = [];
  const streaming = streamForever(daemon, streamed, stop.signal, {
    input: 'Name a colour.',
    maxTokens: 8,
    probe: null,
    // Without a pause it would keep a core from the round, which runs at the lowest priority.
    pauseMs: 500,
  });
  t.after(() => stop.abort());
  const round = await champion(daemon, 2, 500_000);
  await eventually(
    'an answer by it',
    async () => (streamed.some(s => s.version === 'learnd@2') ? true : undefined),
    60_000,
  );
  stop.abort();
  await streaming;
  const [slim, base] = (await daemon.get('/v1/admin/versions')) as Version[];
  assert.equal(round.epsilon, 0);
  const { champion: before, candidate } = round.verdict;
  t.diagnostic(
    `${before.size_mb.toFixed(0)} -> ${candidate.size_mb.toFixed(0)} MB, ${before.tokens_per_second.toFixed(1)} -> ${candidate.tokens_per_second.toFixed(1)} tokens/s`,
  );
  assert.ok(candidate.size_mb < 0.8 * before.size_mb);
  assert.ok(candidate.parameters < 0.8 * before.parameters);
  assert.ok(candidate.tokens_per_second > before.tokens_per_second);
  assert.deepEqual(slim!.evaluation.size_mb, candidate.size_mb);
  assert.equal(base!.version, 'learnd@1');
  assert.deepEqual(
    streamed.filter(s => s.error !== undefined || new Set(s.versions).size !== 1),
    [],
  );
  assert.ok(streamed.some(s => s.version === 'learnd@1'));
});
