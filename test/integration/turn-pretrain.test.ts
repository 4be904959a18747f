import assert from 'node:assert/strict';
import test from 'node:test';
import { PUBLIC_SENTENCES } from '../../src/learn/training/public-text.ts';
import { answers, champion } from '../support/champion.ts';
import { startTestDaemon, testFolder } from '../support/daemon.ts';
import { CHATML, writeTinyModel } from '../support/tiny-model.ts';

test('a rule pre-trains on next words and gaps of documents of a public source, and the result is served', {
  timeout: 180_000,
}, async t => {
  const data = testFolder(t, 'pretrain-round');
  const base = await writeTinyModel(data, 'base', 5, { chatTemplate: CHATML, mask: true });
  const daemon = await startTestDaemon(t, {
    data,
    settings: `base: ${base}\nmonitor: { every_seconds: 1 }\npolicy: { every_seconds: 0.5 }\nsources: [{ name: newsroom, public: true }]\n`,
    policies: `
rules:
  - name: read-on
    when: champion.version == 1
    require: documents.new >= 60
    do: [{ pretrain: { max_minutes: 1, objective: mixed, masked_share: 0.25 } }]
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
  const round = await champion(daemon, 2, 120_000);
  assert.equal(round.epsilon, 0);
  await answers(daemon, 2);
});
