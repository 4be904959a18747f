import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { readTokenizerJson } from '../../src/learn/model/tokenizer/hf-json.ts';
import { learnd, testFolder } from '../support/daemon.ts';
import { documents } from '../support/documents.ts';
import { writeTinyLora, writeTinyModel } from '../support/tiny-model.ts';

async function json(args: readonly string[]): Promise<Record<string, unknown>> {
  const { code, stdout, stderr } = await learnd([...args, '--json']);
  assert.equal(code, 0, `${args.join(' ')}: ${stderr}`);
  return JSON.parse(stdout);
}

test('growing, augmenting, pruning, merging and answering from the command line', { timeout: 120_000 }, async t => {
  const folder = testFolder(t, 'cli-models');
  const at = (name: string): string => join(folder, name);
  const model = await writeTinyModel(folder, 'tiny', 3, { config: { layers: 4, ffn: [64, 64, 64, 64] } });
  writeFileSync(at('text.txt'), `${documents('mail', 30, 5).join('\n')}\n`);
  const [grown, more, flap, sparse, charged] = await Promise.all([
    json(['tokenizer', 'grow', at('text.txt'), '--model', model, '--add', '9', '--out', at('grown')]),
    json(['augment', at('text.txt'), '--out', at('more.jsonl'), '--count', '2', '--operations', 'swap,punctuation']),
    json([
      ...['model', 'prune', model, '--method', 'flap', '--ffn', '32', '--drop-layers', '1', '--layers-by', 'sleb'],
      ...['--calibration', at('text.txt'), '--out', at('flap.gguf')],
    ]),
    json([
      ...['model', 'prune', model, '--sparsity', '2:4', '--calibration', at('text.txt'), '--out', at('sparse.gguf')],
    ]),
    json([
      ...['model', 'prune', model, '--ffn', '32', '--calibration', 'private', '--file', at('text.txt')],
      ...['--epsilon', '4', '--out', at('charged.gguf')],
    ]),
  ]);
  const { code, stderr } = await learnd([
    ...['augment', at('text.txt'), '--out', at('never.jsonl'), '--operations', 'paraphrase', '--model', model],
  ]);
  assert.notEqual(code, 0);
  assert.match(stderr, /cannot chat: it has no chat template/);
  assert.deepEqual([grown.vocab_size, grown.added], [268, 9]);
  assert.deepEqual([more.sources, more.variants], [30, 60]);
  assert.equal(readFileSync(at('more.jsonl'), 'utf8').trim().split('\n').length, 90);
  assert.deepEqual(flap.ffn, [32, 32, 32]);
  assert.equal((flap.dropped as unknown[]).length, 1);
  assert.ok((flap.parameters as number) < (flap.parameters_before as number));
  const { epsilon, mechanisms } = charged.spent as { epsilon: number; mechanisms: unknown[] };
  assert.ok(Math.abs(epsilon - 4) < 0.01 && mechanisms.length === 1);
  assert.deepEqual(charged.ffn, [32, 32, 32, 32]);
  assert.match((sparse.notes as string[])[0]!, /no dense runtime gets faster/);

  const special = ['--special', '<|endoftext|>', '--special', '<|im_end|>'];
  const trained = ['tokenizer', 'train', at('text.txt'), '--vocab', '300', '--pre', 'llama-bpe', ...special];
  assert.equal((await json([...trained, '--out', at('tokenizer.json')])).vocab_size, 300);
  const { spec } = readTokenizerJson(at('tokenizer.json'));
  assert.equal(spec.pre, 'llama-bpe');
  assert.deepEqual(spec.tokens.slice(-2), ['<|endoftext|>', '<|im_end|>']);

  const base = await writeTinyModel(folder, 'base', 3);
  writeFileSync(at('two.csv'), 'text,label\nWhere is my card?,card\nWhat is the fee?,fee\n');
  const [said, noise] = await Promise.all(
    ['one', 'other'].map(name =>
      json([
        ...['augment', at('two.csv'), '--out', at(`${name}.jsonl`), '--operations', 'paraphrase,back-generation'],
        ...['--model', base, '--label', 'label', '--count', '1', '--similarity', '-1'],
      ]),
    ),
  );
  assert.deepEqual(said!.model, noise!.model, 'the same seed, the same texts');
  assert.ok((said!.model as { asked: number }).asked >= 4);
  assert.equal(readFileSync(at('one.jsonl'), 'utf8'), readFileSync(at('other.jsonl'), 'utf8'));
  await writeTinyLora(base, at('lora.gguf'), 4);
  writeFileSync(at('qa.jsonl'), '{"prompt":"Hi","reference":"hello"}\n');
  const [merged, asked] = await Promise.all([
    json(['model', 'merge', base, '--adapter', at('lora.gguf'), '--out', at('merged.gguf')]),
    json(['eval', 'answers', '--model', base, '--file', at('qa.jsonl'), '--tokens', '4']),
  ]);
  assert.deepEqual([merged.rank, merged.changed], [2, 2]);
  assert.deepEqual([asked.items, asked.error_rate], [1, 0]);
  const speed = await json(['eval', 'speed', '--model', at('merged.gguf'), '--requests', '2', '--tokens', '4']);
  assert.deepEqual([speed.requests, speed.error_rate], [2, 0]);
  for (const [args, message] of [
    [['model', 'prune', model, '--method', 'guess', '--ffn', '32', '--out', at('x')], /'guess' is not one of/],
    [['model', 'prune', model, '--sparsity', 'half', '--out', at('x')], /neither 2:4 nor a share/],
    [['model', 'merge', base, '--out', at('x.gguf')], /without an adapter/],
  ] as const) {
    const { code, stderr } = await learnd([...args]);
    assert.equal(code, 2);
    assert.match(stderr, message);
  }
});
