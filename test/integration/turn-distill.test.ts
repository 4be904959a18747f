import assert from 'node:assert/strict';
import test from 'node:test';
import { answers, champion } from '../support/champion.ts';
import { startTestDaemon, testFolder } from '../support/daemon.ts';
import { roundDeployment } from '../support/rounds.ts';
import { writeTinyModel } from '../support/tiny-model.ts';

/** A rule starts the whole chain; the pruned, distilled and quantized model answers over the API. */
test('a rule prunes, distils and quantizes in one round, and the result is served', { timeout: 180_000 }, async t => {
  const data = testFolder(t, 'distill');
  const base = await writeTinyModel(data, 'base', 5, { config: { ffn: [96, 96] } });
  const daemon = await startTestDaemon(t, {
    data,
    settings: `base: ${base}\nmonitor: { every_seconds: 1 }\npolicy: { every_seconds: 0.5 }\n`,
    policies: `
rules:
  - name: compact
    when: champion.version == 1
    do: [{ prune: { ffn: 32 } }, { distill: { max_minutes: 1 } }, { quantize: { type: q8_0 } }]
    cooldown: 1h
gate:
  - candidate.size_mb < champion.size_mb
  - candidate.parameters < champion.parameters
`,
    readyMs: 60_000,
  });
  const round = await champion(daemon, 2, 100_000);
  assert.equal(round.epsilon, 0);
  const said = round.notes.find(note => note.startsWith('distilled from what it was before it was pruned'))!;
  const [, first, last] = /: ([\d.]+) to ([\d.]+) nats/.exec(said)!;
  t.diagnostic(said);
  assert.ok(Number(last) < 0.9 * Number(first));
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
