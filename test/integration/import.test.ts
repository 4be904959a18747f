import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { writeSafetensors } from '../../src/learn/model/export.ts';
import { openModel } from '../../src/learn/model/open.ts';
import { learnd, startTestDaemon, testFolder } from '../support/daemon.ts';
import { writeTinyModel } from '../support/tiny-model.ts';

test('a GGUF and a folder become versions of a running daemon, answer by number, and can be promoted', {
  timeout: 180_000,
}, async t => {
  const data = testFolder(t, 'import');
  const base = await writeTinyModel(data, 'base', 1);
  const other = await writeTinyModel(data, 'other', 2);
  const hf = join(data, 'hf');
  await writeSafetensors(await openModel(await writeTinyModel(data, 'third', 3)), hf);
  const daemon = await startTestDaemon(t, { data, settings: `base: ${base}\n`, policies: 'rules: []\n' });
  const cli = async (...args: string[]) => {
    const { code, stdout, stderr } = await learnd([...args, '--data', daemon.data, '--json']);
    return { code, stderr, json: code === 0 ? JSON.parse(stdout) : undefined };
  };
  const first = await cli('import', other, '--name', 'learnd');
  assert.equal(first.code, 0, first.stderr);
  assert.equal(first.json.version, 'learnd@2');
  const second = await cli('import', hf, '--type', 'q8_0');
  assert.equal(second.code, 0, second.stderr);
  assert.equal(second.json.version, 'learnd@3');
  assert.match(second.json.notes[0], /q8_0/);
  const answer = (model: string) =>
    daemon.post('/v1/responses', { model, input: 'Hi', max_output_tokens: 12, temperature: 0 }) as Promise<{
      model: string;
      output: { content: { text: string }[] }[];
    }>;
  const [one, two, three] = [await answer('learnd@1'), await answer('learnd@2'), await answer('learnd@3')];
  assert.deepEqual([one.model, two.model, three.model], ['learnd@1', 'learnd@2', 'learnd@3']);
  assert.equal(new Set([one, two, three].map(a => a.output[0]!.content[0]!.text)).size, 3);
  const versions = (await cli('versions')).json as { version: string; parent: string | null }[];
  assert.deepEqual(
    versions.map(v => [v.version, v.parent]),
    [
      ['learnd@3', null],
      ['learnd@2', null],
      ['learnd@1', null],
    ],
  );
  assert.equal((await cli('status')).json.champion, 'learnd@1', 'not promoted by being imported');
  assert.equal((await cli('promote', 'learnd@2')).code, 0);
  assert.equal((await cli('status')).json.champion, 'learnd@2');

  const wrong = await cli('import', other, '--name', 'elsewhere');
  assert.deepEqual([wrong.code === 0, /serves versions of "learnd"/.test(wrong.stderr)], [false, true], wrong.stderr);
  const broken = join(data, 'broken.gguf');
  writeFileSync(broken, 'GGUF and nothing more');
  const damaged = await cli('import', broken);
  assert.ok(damaged.code !== 0 && damaged.stderr.includes(broken), damaged.stderr);
  await assert.rejects(daemon.post('/v1/admin/versions', { file: broken }), /broken\.gguf/);
  await assert.rejects(daemon.post('/v1/admin/versions', { file: 'other.gguf' }), /absolute path/);
  assert.equal(((await cli('versions')).json as unknown[]).length, 3);
});
