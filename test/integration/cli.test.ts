import assert from 'node:assert/strict';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { learnd, testFolder } from '../support/daemon.ts';
import { documents } from '../support/documents.ts';
import { writeTinyModel } from '../support/tiny-model.ts';

/** The commands that need no daemon, as a user runs them: --json is one document, a failure one line and a non-zero exit. */

async function json(args: readonly string[]): Promise<Record<string, unknown>> {
  const run = await learnd([...args, '--json']);
  assert.equal(run.code, 0, `${args.join(' ')}: ${run.stderr}`);
  return JSON.parse(run.stdout) as Record<string, unknown>;
}

async function refused(args: readonly string[], says: RegExp): Promise<void> {
  const run = await learnd(args);
  assert.notEqual(run.code, 0, args.join(' '));
  assert.match(run.stderr, says);
  assert.equal(run.stderr.trim().split('\n').length, 1, run.stderr);
  assert.equal(run.stdout, '');
}

test('tokenizer, perplexity, training, compression and export on a tiny model', { timeout: 300_000 }, async t => {
  const folder = testFolder(t, 'cli');
  const at = (name: string): string => join(folder, name);
  const model = await writeTinyModel(folder, 'tiny', 3);
  const text = at('text.txt');
  const lines = documents('mail', 60, 5);
  writeFileSync(text, `${lines.join('\n')}\n\n`);

  const trained = await json(['tokenizer', 'train', text, '--vocab', '300', '--out', at('tokenizer.json')]);
  assert.deepEqual(trained, { vocab_size: 300, file: at('tokenizer.json') });
  assert.ok(JSON.parse(readFileSync(at('tokenizer.json'), 'utf8')).model);
  const { ids } = (await json(['tokenizer', 'encode', '--model', model, '--file', text])) as { ids: number[][] };
  assert.equal(ids.length, lines.length);
  assert.equal(ids[0]!.length, Buffer.byteLength(lines[0]!), 'the tiny model has a token a byte');

  const before = (await json(['eval', 'perplexity', '--model', model, '--file', text])) as Record<string, number>;
  assert.equal(
    before.tokens,
    ids.reduce((sum, of) => sum + of.length - 1, 0),
  );
  assert.equal(
    before.bytes,
    lines.reduce((sum, line) => sum + Buffer.byteLength(line), 0),
  );
  assert.ok(Math.abs(before.perplexity! - Math.exp(before.nll! / before.tokens!)) < 1e-9);
  assert.ok(Math.abs(before.bits_per_byte! - before.nll! / Math.LN2 / before.bytes!) < 1e-9);

  const common = ['train', '--model', model, '--file', text];
  const lora = (await json([
    ...common,
    '--method',
    'lora',
    '--epsilon',
    'none',
    '--steps',
    '30',
    '--out',
    at('lora'),
  ])) as { steps: number; epsilon: null };
  assert.equal(lora.steps, 30);
  assert.equal(lora.epsilon, null);
  assert.ok(
    existsSync(join(at('lora'), 'adapter.gguf')) && existsSync(join(at('lora'), 'peft', 'adapter_config.json')),
  );
  const full = (await json([
    ...common,
    '--method',
    'full',
    '--epsilon',
    'none',
    '--steps',
    '30',
    '--out',
    at('full'),
  ])) as { loss: number[] };
  assert.ok(full.loss.at(-1)! < full.loss[0]!);
  const after = (await json([
    'eval',
    'perplexity',
    '--model',
    join(at('full'), 'model.gguf'),
    '--file',
    text,
  ])) as Record<string, number>;
  assert.ok(after.perplexity! < before.perplexity!, `${before.perplexity} -> ${after.perplexity}`);
  const norms = (await json([
    ...common,
    '--method',
    'norms',
    '--epsilon',
    '4',
    '--delta',
    '1e-3',
    '--steps',
    '3',
    '--out',
    at('norms'),
  ])) as { steps: number; epsilon: number; noise_multiplier: number };
  assert.ok(norms.epsilon > 3.9 && norms.epsilon <= 4);
  const again = await json([
    'privacy',
    'epsilon',
    '--noise-multiplier',
    String(norms.noise_multiplier),
    '--sample-rate',
    '1',
    '--steps',
    '3',
    '--delta',
    '1e-3',
  ]);
  assert.equal(again.epsilon, norms.epsilon);

  const small = (await json(['model', 'prune', model, '--ffn', '32', '--out', at('small.gguf')])) as Record<
    string,
    number
  >;
  assert.ok(small.parameters! < small.parameters_before!);
  const q8 = (await json(['model', 'quantize', model, '--type', 'q8_0', '--out', at('q8.gguf')])) as Record<
    string,
    number
  >;
  assert.ok(q8.size_mb! < q8.size_mb_before!);
  for (const made of ['small.gguf', 'q8.gguf']) {
    const { perplexity } = (await json(['eval', 'perplexity', '--model', at(made), '--file', text])) as Record<
      string,
      number
    >;
    assert.ok(Number.isFinite(perplexity));
  }
  const exported = (await json(['export', model, '--format', 'safetensors', '--out', at('hf')])) as {
    files: { path: string; sha256: string }[];
  };
  assert.ok(exported.files.some(file => file.path.endsWith('config.json') && /^[0-9a-f]{64}$/.test(file.sha256)));
  const reopened = (await json(['eval', 'perplexity', '--model', at('hf'), '--file', text])) as Record<string, number>;
  assert.ok(Math.abs(reopened.perplexity! / before.perplexity! - 1) < 1e-4);
});

test('doctor opens the native parts it speaks of', { timeout: 60_000 }, async t => {
  const run = await learnd(['doctor', '--data', testFolder(t, 'doctor'), '--json']);
  const { checks } = JSON.parse(run.stdout) as { checks: { name: string; ok: boolean; found: string }[] };
  const found = (name: string) => checks.find(check => check.name === name);
  assert.deepEqual(found('native TensorFlow'), {
    name: 'native TensorFlow',
    ok: true,
    found: 'loads, backend tensorflow',
  });
  assert.equal(found('llama.cpp')?.ok, true);
  // Without its binding the check must say so.
  const without = await learnd(['doctor', '--data', testFolder(t, 'doctor'), '--json'], {
    NODE_OPTIONS: '--no-addons',
  });
  const report = JSON.parse(without.stdout) as { ok: boolean; checks: { name: string; ok: boolean; mend?: string }[] };
  assert.equal(report.checks.find(check => check.name === 'native TensorFlow')?.ok, false);
  assert.equal(without.code, 1);
});

test('a failure is one clear line and a non-zero exit', { timeout: 120_000 }, async t => {
  const folder = testFolder(t, 'cli-wrong');
  const text = join(folder, 'text.txt');
  writeFileSync(text, 'one line\nanother line\n');
  const model = await writeTinyModel(folder, 'tiny', 3);
  const train = ['train', '--model', model, '--file', text];
  await refused([...train, '--epsilon', '-1'], /epsilon must be a number above 0, or none/);
  await refused([...train, '--epsilon', '1', '--delta', '2'], /delta must lie between 0 and 1/);
  await refused([...train, '--epsilon', 'none', '--sequence', '5000'], /does not fit the model's context/);
  await refused(['eval', 'perplexity', '--model', join(folder, 'none.gguf'), '--file', text], /none\.gguf/);
  await refused(['eval', 'f1', '--file', text], /text\.txt/);
  await refused(['drift', '--detector', 'oracle', '--file', text], /oracle/);
  await refused(['status', '--data', folder], /no daemon is running/);
  await refused(['import', model, '--data', folder], /no daemon is running/);
  await refused(['build', '--config', join(folder, 'none.yaml')], /none\.yaml/);
  await refused(['pretrain', '--file', join(folder, 'none.txt'), '--out', join(folder, 'p')], /none\.txt/);
  await refused(['model', 'distill', model, '--out', join(folder, 's.gguf')], /student/);
  for (const args of [['policy', 'explain'], ['support-bundle'], ['decisions', '--why-not']])
    await refused(args, /is not available in this version/);
  await refused(['staus'], /unknown command 'staus'.*status/);
});
