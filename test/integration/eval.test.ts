import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { run as answers } from '../../src/cli/eval-answers.ts';
import { run as report } from '../../src/cli/eval-report.ts';
import { run as speed } from '../../src/cli/eval-speed.ts';
import { learnd, testFolder } from '../support/daemon.ts';
import { startServing } from '../support/serving.ts';
import { writeTinyModel } from '../support/tiny-model.ts';

const jsonl = (rows: readonly unknown[]): string => `${rows.map(row => JSON.stringify(row)).join('\n')}\n`;

test('a model file: answers, speed and a report from the command line', { timeout: 60_000 }, async t => {
  const folder = testFolder(t, 'eval');
  const at = (name: string): string => join(folder, name);
  const model = await writeTinyModel(folder, 'tiny', 3);
  writeFileSync(at('text.txt'), 'A first line.\nAnd a second one, longer.\nThree.\n');
  writeFileSync(
    at('labels.jsonl'),
    jsonl([
      { true: 'a', predicted: 'a' },
      { true: 'b', predicted: 'a' },
    ]),
  );
  writeFileSync(
    at('qa.jsonl'),
    jsonl([
      { prompt: 'Hi', reference: 'hello' },
      { prompt: 'Who?', reference: ['me', 'you'] },
    ]),
  );
  writeFileSync(at('train.json'), JSON.stringify({ loss: [3, 2.5, null, 2] }));
  const args = [
    '--model',
    model,
    '--text',
    at('text.txt'),
    '--predictions',
    at('labels.jsonl'),
    '--answers',
    at('qa.jsonl'),
  ];
  const more = [
    '--speed',
    '--requests',
    '3',
    '--tokens',
    '4',
    '--training',
    at('train.json'),
    '--out',
    at('report.html'),
  ];
  const made = await learnd(['eval', 'report', ...args, ...more, '--json']);
  assert.equal(made.code, 0, made.stderr);
  const { models } = JSON.parse(made.stdout) as { models: Record<string, number>[] };
  assert.equal(models.length, 1);
  const own = models[0]!;
  assert.ok(own.perplexity! > 1 && own.perplexity_error! > 0);
  assert.deepEqual([own.error_rate, own.exact_match, own.weighted_f1], [0, 0, 1 / 3]);
  const page = readFileSync(at('report.html'), 'utf8');
  assert.equal(page.match(/<svg/g)!.length, 4, 'loss of lines, classes, response times, training loss');
  const saved = await answers({ model, file: at('qa.jsonl'), tokens: 4, save: at('answers.jsonl') });
  assert.equal(saved.error_rate, 0);
  // The answers saved are scored alike without the model, and greedy answers are the same again.
  const again = await answers({ file: at('answers.jsonl') });
  assert.deepEqual({ ...again, error_rate: 0 }, saved);
});

test('a daemon: what a client sees, streamed; failures are counted, not thrown', { timeout: 60_000 }, async t => {
  const s = await startServing(t);
  const folder = testFolder(t, 'eval');
  const file = join(folder, 'qa.jsonl');
  writeFileSync(file, jsonl([{ prompt: 'Say z', reference: 'z z' }]));
  const before = { ...process.env };
  t.after(() => {
    process.env = before;
  });
  process.env.LEARND_URL = s.url;
  process.env.LEARND_KEY = 'admin-key';
  const target = { data: folder, tokens: 5 };
  const none = await speed({ ...target, requests: 2 });
  assert.deepEqual([none.error_rate, none.response_ms.p50, Object.values(none.failures)], [1, null, [2]]);
  await s.serving.setChampion(await s.version(1, { says: 'z' }));
  const good = await speed({ ...target, requests: 6, parallel: 2 });
  assert.deepEqual([good.requests, good.errors, good.tokens, good.model], [6, 0, 30, 'champion']);
  assert.ok(good.first_token_ms.p50! > 0 && good.first_token_ms.p50! <= good.response_ms.p50!);
  assert.ok(good.tokens_per_second.p50! > 0);
  const asked = await answers({ ...target, file });
  assert.deepEqual([asked.error_rate, asked.exact_match], [0, 0]);
  assert.equal(s.ports.exchanges.size, 0, 'a measurement is not stored');
  const made = await report({
    data: folder,
    answers: file,
    tokens: 5,
    speed: true,
    requests: 2,
    out: join(folder, 'r.html'),
  });
  assert.deepEqual([made.models[0]!.name, made.models[0]!.error_rate], ['champion', 0]);
});

test('what cannot be measured is refused by name, and no report is left', { timeout: 60_000 }, async t => {
  const folder = testFolder(t, 'eval');
  const at = (name: string): string => join(folder, name);
  writeFileSync(at('bad.jsonl'), '{"reference": 3}\n');
  writeFileSync(at('ask.jsonl'), '{"reference": "x"}\n');
  writeFileSync(at('array.jsonl'), '[1]\n');
  await assert.rejects(answers({ file: at('bad.jsonl') }), { code: 'invalid', field: 'reference' });
  await assert.rejects(answers({ file: at('ask.jsonl') }), { code: 'invalid', field: 'answer', message: /row 1/ });
  await assert.rejects(answers({ file: at('array.jsonl') }), { code: 'invalid', message: /not a JSON object/ });
  await assert.rejects(speed({}), { code: 'invalid', field: 'model' });
  await assert.rejects(speed({ model: 'x', parallel: 2 }), { code: 'invalid', field: 'parallel' });
  await assert.rejects(report({ out: at('r.html') }), { code: 'invalid', field: 'report' });
  await assert.rejects(report({ out: at('r.html'), training: at('bad.jsonl') }), {
    code: 'invalid',
    field: 'training',
  });
  assert.throws(() => readFileSync(at('r.html')), { code: 'ENOENT' });
});
