import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import test from 'node:test';
import { oneLine } from '../../src/base/errors.ts';
import { askTimed, openAnswerer } from '../../src/cli/answerer.ts';
import { type PretrainOptions, run } from '../../src/cli/pretrain.ts';
import { sha256OfFile } from '../../src/learn/model/export.ts';
import { PUBLIC_SENTENCES } from '../../src/learn/training/public-text.ts';
import { learnd, testFolder } from '../support/daemon.ts';

const BIN = resolve(import.meta.dirname, '../../bin/learnd.mjs');
const SHAPE = ['--vocab', '400', '--hidden', '32', '--layers', '1', '--heads', '2', '--sequence', '64'];

/** Ends the run by Ctrl-C at its first step. */
const interrupted = (args: readonly string[]) =>
  new Promise<{ code: number | null; stderr: string }>((done, fail) => {
    const child = spawn(process.execPath, [BIN, ...args], { stdio: ['ignore', 'ignore', 'pipe'] });
    let stderr = '';
    child.stderr.on('data', chunk => {
      const before = stderr;
      stderr += chunk;
      if (!/step 1\//.test(before) && /step 1\//.test(stderr)) child.kill('SIGINT');
    });
    child.on('error', fail);
    child.on('close', code => done({ code, stderr }));
  });

test('pretrain: interrupted and taken up again it makes the same model, which llama.cpp answers with', {
  timeout: 120_000,
}, async t => {
  const folder = testFolder(t, 'pretrain');
  const file = join(folder, 'text.txt');
  writeFileSync(file, PUBLIC_SENTENCES.join('\n'));
  const args = ['pretrain', '--file', file, ...SHAPE, '--objective', 'mixed', '--steps', '60'];
  const whole = await learnd([...args, '--out', join(folder, 'whole'), '--json']);
  assert.equal(whole.code, 0, whole.stderr);
  const first = await interrupted([...args, '--out', join(folder, 'parts')]);
  assert.match(first.stderr, /interrupted.*learnd pretrain --resume/);
  assert.equal(existsSync(join(folder, 'parts', 'model.gguf')), false);
  const second = await learnd(['pretrain', '--resume', join(folder, 'parts'), '--json']);
  assert.equal(second.code, 0, second.stderr);
  const [a, b] = [whole, second].map(({ stdout }) => JSON.parse(stdout) as { loss: number[]; holdout: unknown });
  assert.equal(a!.loss.length, 60);
  assert.ok(a!.loss.at(-1)! < a!.loss[0]! - 0.4);
  assert.deepEqual(b!.loss, a!.loss);
  assert.deepEqual(b!.holdout, a!.holdout);
  const model = join(folder, 'parts', 'model.gguf');
  assert.equal(await sha256OfFile(model), await sha256OfFile(join(folder, 'whole', 'model.gguf')));
  assert.match(readFileSync(join(folder, 'whole', 'loss.svg'), 'utf8'), /^<svg xmlns.*<path d="M/);
  assert.equal(existsSync(join(folder, 'parts', 'checkpoint')), false);
  const answerer = await openAnswerer({ model });
  t.after(() => answerer.close());
  const { timed } = await askTimed(answerer, 'What time does the bakery open?', 4);
  assert.equal(timed.ok, true);
});

test('pretrain: what cannot be is refused by the option at fault, before anything is made', async t => {
  const folder = testFolder(t, 'pretrain-refused');
  const [text, empty, latin] = ['text.txt', 'empty.txt', 'latin.txt'].map(name => join(folder, name)) as [
    string,
    string,
    string,
  ];
  writeFileSync(text, 'a line\nanother line\n');
  writeFileSync(empty, '\n\n');
  writeFileSync(latin, Buffer.from([0x61, 0xe9, 0x0a]));
  const refused = async (options: Partial<PretrainOptions>, says: RegExp): Promise<void> => {
    await assert.rejects(run({ file: [text], out: join(folder, 'out'), ...options }), error => {
      assert.match(oneLine(error), says);
      assert.equal((error as { code?: string }).code, 'invalid');
      return true;
    });
  };
  await refused({ file: [empty] }, /file.*no text/);
  await refused({ file: [latin] }, /not UTF-8/);
  await refused({ file: [join(folder, 'none')] }, /cannot read/);
  await refused({ hidden: 30 }, /hidden/);
  await refused({ vocab: 100 }, /vocab/);
  await refused({ maskedShare: 0.5 }, /mixed/);
  await refused({ steps: 3, passes: 2 }, /passes/);
  await refused({ objective: 'mixed', maskedShare: 2 }, /maskedShare/);
  await refused({ from: text, hidden: 64 }, /hidden/);
});
