import assert from 'node:assert/strict';
import { readdirSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { measure } from '../../src/cli/eval-perplexity.ts';
import type { Card } from '../../src/learn/model/version.ts';
import { PUBLIC_SENTENCES } from '../../src/learn/training/public-text.ts';
import { answers, champion } from '../support/champion.ts';
import { startTestDaemon, testFolder } from '../support/daemon.ts';
import { documentEvents, documents } from '../support/documents.ts';
import { roundDeployment } from '../support/rounds.ts';
import { writeTinyModel } from '../support/tiny-model.ts';

/**
 * A rule starts the whole chain; the pruned, distilled and quantized model answers over the API. Pruning is calibrated on users' documents,
 * at a cost.
 */
test('a rule prunes, distils and quantizes in one round, and the result is served', { timeout: 180_000 }, async t => {
  const data = testFolder(t, 'distill');
  const base = await writeTinyModel(data, 'base', 5, { config: { ffn: [96, 96] } });
  const daemon = await startTestDaemon(t, {
    data,
    settings: `base: ${base}
monitor: { every_seconds: 1 }
policy: { every_seconds: 0.5 }
privacy: { expected_users: 30 }
`,
    policies: `
rules:
  - name: compact
    when: champion.version == 1
    require: documents.new >= 20
    do: [{ prune: { ffn: 32, calibration: private, epsilon: 3 } }, { distill: { max_minutes: 1 } }, { quantize: { type: q8_0 } }]
    cooldown: 1h
gate:
  - candidate.size_mb < champion.size_mb
  - candidate.parameters < champion.parameters
`,
    readyMs: 60_000,
  });
  await daemon.post(
    '/v1/documents',
    documentEvents(documents('mail', 40, 3), 'test', i => `user ${i}`),
  );
  const round = await champion(daemon, 2, 100_000);
  assert.ok(Math.abs(round.epsilon - 3) < 0.01, `${round.epsilon}`);
  assert.ok(round.notes.some(note => /^calibration: \d+ units counted/.test(note)));
  const said = round.notes.find(note => note.startsWith('distilled from what it was before it was pruned'))!;
  const [, first, last] = /: ([\d.]+) to ([\d.]+) nats/.exec(said)!;
  t.diagnostic(said);
  assert.ok(Number(last) < 0.9 * Number(first));
  // The card says what each step cost, on sentences that need nobody's documents.
  const [slim] = (await daemon.get('/v1/admin/versions')) as { evaluation: Card }[];
  const { compressed = [], ...card } = slim!.evaluation;
  assert.deepEqual(
    compressed.map(({ step }) => step),
    ['prune', 'distill', 'quantize'],
  );
  const [pruned, taught, shorter] = compressed;
  assert.equal(taught!.perplexity_before, pruned!.perplexity);
  assert.equal(shorter!.perplexity_before, taught!.perplexity);
  assert.ok(Math.abs(pruned!.change - (pruned!.perplexity / pruned!.perplexity_before - 1)) < 1e-9);
  // q8_0 keeps nearly all; the file itself, read again, agrees with what the card says.
  assert.ok(Math.abs(shorter!.change) < 0.05 && shorter!.change_standard_error! > 0);
  const [file] = readdirSync(data, { recursive: true, encoding: 'utf8' })
    .map(name => join(data, name))
    .filter(path => statSync(path).isFile() && Math.abs(statSync(path).size / 1e6 - card.size_mb) < 1e-9);
  const lines = join(data, 'sentences.txt');
  writeFileSync(lines, PUBLIC_SENTENCES.slice(0, 48).join('\n'));
  const read = await measure({ model: file!, file: lines });
  assert.ok(Math.abs(read.total.perplexity! / shorter!.perplexity - 1) < 1e-6);
  await answers(daemon, 2);
});

test('a version may teach; who teaches must be there', { timeout: 120_000 }, async t => {
  const rounds = await roundDeployment(t);
  const minutes = { max_minutes: 1 } as const;
  const unknown = await rounds.run([{ do: 'distill', teacher: '7', ...minutes }]);
  assert.equal(unknown.state, 'refused');
  const pruned = await rounds.run([{ do: 'prune', ffn: 32, calibration: 'public' }]);
  assert.equal(pruned.state, 'published');
  const taught = await rounds.run([{ do: 'distill', teacher: 'learnd@1', ...minutes }]);
  assert.equal(taught.state, 'published', String(taught.error));
  const { notes, manifest } = taught.work as { notes: string[]; manifest: { model: { parameters: number } } };
  assert.ok(notes.some(note => /^distilled from learnd@1 in \d+ steps.*no privacy is spent/.test(note)));
  assert.ok(manifest.model.parameters > 0);
});
