import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import test from 'node:test';
import { oneLine } from '../../src/base/errors.ts';
import { run, type TrainOptions } from '../../src/cli/train.ts';
import { openModel } from '../../src/learn/model/open.ts';
import { learnd, testFolder } from '../support/daemon.ts';
import { documents } from '../support/documents.ts';
import { inquiries } from '../support/inquiries.ts';
import { writeTinyModel } from '../support/tiny-model.ts';

const BIN = resolve(import.meta.dirname, '../../bin/learnd.mjs');

interface Result {
  readonly steps: number;
  readonly epsilon: number | null;
  readonly delta: number | null;
  readonly noise_multiplier: number | null;
  readonly loss: (number | null)[];
  readonly out: string;
}

/** Runs until standard error says `until`, then sends the signal; resolves with everything said once it has ended. */
function interruptedRun(args: readonly string[], until: RegExp, signal: NodeJS.Signals) {
  return new Promise<{ code: number | null; stdout: string; stderr: string }>((done, fail) => {
    const child = spawn(process.execPath, [BIN, ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
    let [stdout, stderr, sent] = ['', '', false];
    child.stdout.on('data', chunk => {
      stdout += chunk;
    });
    child.stderr.on('data', chunk => {
      stderr += chunk;
      if (sent || !until.test(stderr)) return;
      sent = true;
      child.kill(signal);
    });
    child.on('error', fail);
    child.on('close', code => done({ code, stdout, stderr }));
  });
}

async function train(args: readonly string[]): Promise<{ result: Result; stderr: string }> {
  const run = await learnd(['train', ...args, '--json']);
  assert.equal(run.code, 0, `${args.join(' ')}: ${run.stderr}`);
  return { result: JSON.parse(run.stdout) as Result, stderr: run.stderr };
}

/** In this process: what is refused is refused before anything heavy is loaded. */
async function refused(options: Partial<TrainOptions>, says: RegExp, code = 'invalid'): Promise<void> {
  await assert.rejects(run({ method: 'auto', ...options } as TrainOptions), error => {
    assert.match(oneLine(error), says);
    assert.equal((error as { code?: string }).code, code);
    return true;
  });
}

test('kill -9 in a step, Ctrl-C in a later one, then to the end: the bytes and the epsilon of a run in one go', {
  timeout: 240_000,
}, async t => {
  const folder = testFolder(t, 'train');
  const at = (name: string): string => join(folder, name);
  const model = await writeTinyModel(folder, 'tiny', 3);
  writeFileSync(at('text.txt'), documents('mail', 80, 5).join('\n'));
  const asked = ['--model', model, '--file', at('text.txt'), '--epsilon', '6', '--delta', '1e-5', '--method', 'lora'];
  asked.push('--steps', '12', '--batch', '30', '--rank', '2', '--ema', '0.8', '--checkpoint-every', '1');
  const killed = await interruptedRun(['train', ...asked, '--out', at('out')], /step [4-9]\/12/, 'SIGKILL');
  assert.equal(killed.code, null);
  const checkpoint = join(at('out'), 'checkpoint');
  const sealed = readFileSync(join(checkpoint, 'sealed.json'), 'utf8');
  for (const name of ['sealed.json', 'state.safetensors'])
    assert.equal(statSync(join(checkpoint, name)).mode & 0o777, 0o600);
  assert.ok(!existsSync(join(at('out'), 'adapter.gguf')));

  // It does not begin anew over one that waits, and does not go on with other settings or data.
  const [file, out] = [at('text.txt'), at('out')];
  await refused({ model, file, epsilon: '6', out }, /has not ended.*--resume/, 'conflict');
  await refused({ resume: out, epsilon: '7' }, /--epsilon cannot be changed/);
  const text = readFileSync(at('text.txt'));
  truncateSync(at('text.txt'), text.length - 100);
  await refused({ resume: out }, /is not what it was/, 'conflict');
  writeFileSync(at('text.txt'), text);

  const stopped = await interruptedRun(['train', '--resume', at('out')], /step \d+\/12/, 'SIGINT');
  assert.equal(stopped.code, 1, stopped.stderr);
  assert.match(stopped.stderr, /interrupted: .*learnd train --resume /);
  assert.equal(readFileSync(join(checkpoint, 'sealed.json'), 'utf8'), sealed);
  const { result } = await train(['--resume', at('out')]);
  assert.ok(!existsSync(checkpoint), 'the seed is destroyed when the training has settled');
  assert.equal(result.steps, 12);

  // The same seed once more, in one go.
  const again = at('again');
  mkdirSync(join(again, 'checkpoint'), { recursive: true });
  const moved = JSON.parse(sealed) as { request: { options: { out: string } } };
  moved.request.options.out = again;
  writeFileSync(join(again, 'checkpoint', 'sealed.json'), JSON.stringify(moved));
  const { result: whole } = await train(['--resume', again]);
  assert.deepEqual({ ...result, ...timing }, { ...whole, ...timing, out: result.out });
  assert.ok(result.epsilon! <= 6 && result.epsilon! > 5.9);
  for (const file of ['adapter.gguf', join('peft', 'adapter_model.safetensors')])
    assert.ok(readFileSync(join(at('out'), file)).equals(readFileSync(join(again, file))), file);
  await refused({ resume: out }, /there is no checkpoint/, 'not_found');
});

/** What differs from run to run. */
const timing = { seconds_per_step: 0, tokens_per_second: 0, peak_rss_mb: 0 };

test('a head from labelled rows: files, predictions, figures', { timeout: 120_000 }, async t => {
  const folder = testFolder(t, 'train-head');
  const at = (name: string): string => join(folder, name);
  const model = await writeTinyModel(folder, 'tiny', 3);
  const rows = (count: number, seed: number) =>
    inquiries({ intents: ['refund', 'balance', 'transfer'], users: count, perUser: 2, seed });
  const csv = (name: string, of: ReturnType<typeof rows>): string => {
    const quote = (text: string) => `"${text.replaceAll('"', '""')}"`;
    writeFileSync(at(name), `who,says,kind\n${of.map(r => [r.user, r.text, r.label].map(quote).join()).join('\n')}\n`);
    return at(name);
  };
  const columns = ['--text', 'says', '--label', 'kind', '--user', 'who'];
  const asked = ['--model', model, '--file', csv('train.csv', rows(60, 1)), ...columns, '--delta', '1e-5'];
  const { result, stderr } = await train([
    ...asked,
    ...['--epsilon', '8', '--holdout', csv('held.csv', rows(20, 2)), '--out', at('head')],
  ]);
  assert.match(stderr, /the 3 labels are taken from/);
  assert.match(stderr, /weighted F1 0?\.\d+|weighted F1 1/);
  assert.ok(result.epsilon! <= 8 && result.epsilon! > 7.9 && result.loss.length === 0);
  assert.deepEqual(JSON.parse(readFileSync(join(at('head'), 'head.json'), 'utf8')).labels, [
    'balance',
    'refund',
    'transfer',
  ]);
  const f1 = await learnd(['eval', 'f1', '--file', join(at('head'), 'predictions.jsonl'), '--json']);
  assert.ok(JSON.parse(f1.stdout).weighted_f1 > 0.4, f1.stdout);
  assert.ok(!existsSync(join(at('head'), 'checkpoint')));
  await refused(
    {
      ...{ model, file: at('train.csv'), text: 'says', label: 'kind', user: 'who' },
      ...{ epsilon: '8', labels: 'balance,refund', out: at('x') },
    },
    /"transfer".*--labels/,
  );
  const { result: open } = await train([
    ...asked,
    '--epsilon',
    'none',
    '--labels',
    'balance,refund,transfer,other',
    '--out',
    at('x'),
  ]);
  assert.ok(open.epsilon === null && open.loss.at(-1)! < open.loss[0]!);
});

test('other methods and objectives; auto says why', { timeout: 120_000 }, async t => {
  const folder = testFolder(t, 'train-methods');
  const at = (name: string): string => join(folder, name);
  const model = await writeTinyModel(folder, 'tiny', 3);
  writeFileSync(at('text.txt'), documents('mail', 60, 5).join('\n'));
  const text = ['--model', model, '--file', at('text.txt'), '--delta', '1e-5'];
  const auto = await train([...text, '--epsilon', '8', '--steps', '3', '--augment', '--out', at('auto')]);
  assert.match(auto.stderr, /^auto: .*histogram.*norm scales/m);
  assert.match(auto.stderr, /step 3\/3 {2}loss \S+ \(not covered by the noise\) .*epsilon [78]\.\d+ of 8 .*left/);
  assert.ok(auto.result.epsilon! <= 8 && auto.result.epsilon! > 7.9, 'both parts together');
  assert.ok(existsSync(join(at('auto'), 'logit-bias.json')) && existsSync(join(at('auto'), 'model.gguf')));
  const bias = await train([...text, '--epsilon', '4', '--method', 'bias', '--out', at('bias')]);
  assert.deepEqual([bias.result.steps, bias.result.loss], [1, []]);
  assert.ok(Array.isArray(JSON.parse(readFileSync(join(at('bias'), 'logit-bias.json'), 'utf8'))));
  const qwen = await writeTinyModel(folder, 'qwen', 3, { config: { attentionBias: true } });
  const vectors = await train([
    '--model',
    qwen,
    ...text.slice(2),
    '--epsilon',
    '4',
    '--method',
    'bias',
    '--steps',
    '2',
    '--out',
    at('vectors'),
  ]);
  assert.equal(vectors.result.loss.length, 2);
  assert.ok(existsSync(join(at('vectors'), 'model.gguf')) && !existsSync(join(at('vectors'), 'logit-bias.json')));
  const rows = Array.from({ length: 12 }, (_, i) => ({ prompt: `ask ${i}`, chosen: 'yes', rejected: `no ${i}` }));
  writeFileSync(at('pairs.jsonl'), rows.map(row => JSON.stringify(row)).join('\n'));
  const pairs = [
    '--model',
    model,
    '--file',
    at('pairs.jsonl'),
    '--epsilon',
    'none',
    '--method',
    'lora',
    '--steps',
    '4',
  ];
  const preference = await train([...pairs, '--objective', 'preference', '--out', at('pairs')]);
  assert.ok(preference.result.loss.at(-1)! < preference.result.loss[0]!);
});

test('what cannot be is refused by name before anything is spent', { timeout: 120_000 }, async t => {
  const folder = testFolder(t, 'train-wrong');
  const at = (name: string): string => join(folder, name);
  const model = await writeTinyModel(folder, 'tiny', 3);
  writeFileSync(at('text.txt'), 'one line\nanother line\n');
  writeFileSync(at('empty.txt'), '\n\n');
  const asked = { model, file: at('text.txt'), out: at('out'), epsilon: 'none' };
  await refused({ ...asked, model: undefined as never }, /--model is needed/);
  await refused({ ...asked, method: 'lora', rank: 0 }, /rank must be at least 1, not 0/);
  await refused({ ...asked, method: 'lora', targets: 'q,z' }, /targets.*"z" is no linear layer/);
  await refused({ ...asked, method: 'norms', rank: 2 }, /--rank belongs to LoRA/);
  await refused({ ...asked, method: 'norms', layers: 9 }, /the model has 2 layers, not 9/);
  await refused({ ...asked, epsilon: '0' }, /epsilon must be a number above 0, or none; it is "0"/);
  await refused({ ...asked, epsilon: 'much' }, /epsilon must be a number above 0/);
  await refused({ ...asked, epsilon: '1', delta: 0 }, /delta must lie between 0 and 1/);
  await refused({ ...asked, epsilon: '1', batch: 3 }, /batch of 3 is more than the 2 units/);
  await refused({ ...asked, minutes: 0 }, /minutes must be above 0/);
  await refused({ ...asked, ema: 1 }, /ema must lie/);
  await refused({ ...asked, sequence: 5000 }, /does not fit the model's context of 1024/);
  await refused({ ...asked, file: at('empty.txt') }, /empty\.txt holds no text/);
  await refused({ ...asked, method: 'head' }, /label.*--label/);
  await refused({ ...asked, out: at('text.txt') }, /out: cannot write into/);
  await refused({ ...asked, model: at('none.gguf') }, /none\.gguf/, 'not_found');
  const line = ['train', '--model', model, '--file', at('text.txt'), '--out', at('out')];
  const warned = await learnd([
    ...line,
    '--epsilon',
    '8',
    '--delta',
    '0.6',
    '--method',
    'norms',
    '--steps',
    '1',
    '--json',
  ]);
  assert.match(warned.stderr, /warning: delta 0\.6 is not below 1 \/ 2 units/);
  const spelled = await learnd([...line, '--epsilon', '-1']);
  assert.deepEqual([spelled.code, spelled.stdout, spelled.stderr.trim().split('\n').length], [2, '', 1]);

  const tiny = await openModel(model);
  const first = Buffer.from(tiny.weights.read('model.embed_tokens.weight').data.slice(0, 16).buffer);
  const bytes = readFileSync(model);
  const place = bytes.indexOf(first);
  assert.ok(place > 0);
  bytes.writeFloatLE(Number.NaN, place + 8);
  const broken = at('nan.gguf');
  writeFileSync(broken, bytes);
  const nan = await learnd([
    'train',
    '--model',
    broken,
    '--file',
    at('text.txt'),
    '--epsilon',
    '1',
    '--out',
    at('nan'),
  ]);
  assert.match(nan.stderr, /model\.embed_tokens\.weight holds values that are not finite/);
  assert.ok(nan.code !== 0 && !existsSync(join(at('nan'), 'checkpoint')), 'nothing was begun');
});
