import assert from 'node:assert/strict';
import test from 'node:test';
import { PUBLIC_SENTENCES } from '../../src/learn/training/public-text.ts';
import { eventually, startTestDaemon, testFolder } from '../support/daemon.ts';
import { writeTinyModel } from '../support/tiny-model.ts';

test('a rule pre-trains on documents of a public source, and the result is served', { timeout: 180_000 }, async t => {
  const data = testFolder(t, 'pretrain-round');
  const base = await writeTinyModel(data, 'base', 5);
  const daemon = await startTestDaemon(t, {
    data,
    settings: `base: ${base}\nmonitor: { every_seconds: 1 }\npolicy: { every_seconds: 0.5 }\nsources: [{ name: newsroom, public: true }]\n`,
    policies: `
rules:
  - name: read-on
    when: champion.version == 1
    require: documents.new >= 60
    do: [{ pretrain: { max_minutes: 1 } }]
    cooldown: 1h
gate:
  - candidate.perplexity < champion.perplexity
`,
    readyMs: 60_000,
  });
  await daemon.post(
    '/v1/documents',
    PUBLIC_SENTENCES.slice(0, 120).map((text, i) => ({
      specversion: '1.0',
      id: `d${i}`,
      source: 'newsroom',
      type: 'learnd.document',
      data: { text, source: 'newsroom' },
    })),
  );
  await eventually(
    'the version that has read on',
    async () => {
      const { champion } = (await daemon.get('/v1/admin/status')) as { champion: string };
      if (champion === 'learnd@2') return true;
      const [round] = (await daemon.get('/v1/admin/rounds')) as {
        state: string;
        error: string | null;
        verdict: unknown;
      }[];
      if (round && ['failed', 'rejected', 'refused'].includes(round.state))
        assert.fail(`${round.state}: ${round.error} ${JSON.stringify(round.verdict)}`);
      return undefined;
    },
    120_000,
  );
  const [round] = (await daemon.get('/v1/admin/rounds')) as { epsilon: number }[];
  assert.equal(round!.epsilon, 0);
  const ask = { model: 'learnd', input: 'Hello', max_output_tokens: 4 };
  await eventually(
    'an answer by it',
    async () => ((await daemon.post('/v1/responses', ask)) as { model: string }).model === 'learnd@2' || undefined,
    60_000,
  );
});
