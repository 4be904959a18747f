import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { getLlama, LlamaLogLevel, type Token } from 'node-llama-cpp';
import { run } from '../../src/cli/tokenizer-grow.ts';
import { loadEngineModel, scoreTokens } from '../../src/learn/model/engine/index.ts';
import { growModel, writeModelGguf, writeSafetensors } from '../../src/learn/model/export.ts';
import { openGguf } from '../../src/learn/model/formats/gguf-checkpoint.ts';
import { rawOf } from '../../src/learn/model/formats/raw-weights.ts';
import { openModel } from '../../src/learn/model/open.ts';
import type { HostTensor } from '../../src/learn/model/types.ts';
import { smollm2 } from '../support/smollm.ts';
import { writeTinyModel } from '../support/tiny-model.ts';

const folder = mkdtempSync(join(tmpdir(), 'learnd-grow-'));
test.after(() => rmSync(folder, { recursive: true }));
const TEXTS = ['The chargeback fee of the chargeback desk', 'A contactless card, contactless again: chargeback!'];

const row = ({ shape, data }: HostTensor, id: number): Float32Array => data.slice(id * shape[1]!, (id + 1) * shape[1]!);
const mean = (rows: Float32Array[]): Float32Array =>
  rows[0]!.map((_, c) => rows.reduce((sum, r) => sum + r[c]!, 0) / rows.length);

test('tied and untied: new rows are the means of their pieces, old ones stay as stored, llama.cpp encodes alike', async () => {
  const tied = openGguf(await writeTinyModel(folder, 'tied', 31));
  const head = { shape: [259, 32], data: Float32Array.from({ length: 259 * 32 }, (_, i) => Math.sin(i)) };
  const weights = new Map(tied.weights.names().map(name => [name, tied.weights.read(name)]));
  weights.set('lm_head.weight', head);
  const untiedParts = {
    ...tied,
    config: { ...tied.config, tied: false },
    weights: {
      names: () => [...weights.keys()],
      shape: (name: string) => weights.get(name)!.shape,
      read: (name: string) => weights.get(name)!,
    },
  };
  const untied = openGguf(
    (await writeModelGguf(untiedParts, join(folder, 'untied.gguf'), { type: 'q8_0', source: tied })).path,
  );
  const llama = await getLlama({ build: 'never', gpu: false, logLevel: LlamaLogLevel.error });
  for (const [name, model] of Object.entries({ tied, untied })) {
    const grown = growModel(model, TEXTS, 12);
    assert.equal(grown.added.length, 12);
    assert.equal(grown.config.vocabSize, 271);
    const matrices = ['model.embed_tokens.weight', ...(name === 'untied' ? ['lm_head.weight'] : [])];
    for (const matrix of matrices) {
      const old = model.weights.read(matrix);
      const more = grown.weights.read(matrix);
      for (const { id, pieces } of grown.added) assert.deepEqual(row(more, id), mean(pieces.map(p => row(old, p))));
      const stored = rawOf(model.weights, matrix)!.bytes();
      assert.deepEqual(rawOf(grown.weights, matrix)!.bytes().subarray(0, stored.length), stored);
    }
    const out = join(folder, `${name}-grown.gguf`);
    await writeModelGguf({ ...model, ...grown }, out, { type: 'keep', source: model });
    const again = openGguf(out);
    const text = `${TEXTS[0]} and a contactless top-up`;
    const ids = again.tokenizer.encode(text);
    assert.ok(ids.length < model.tokenizer.encode(text).length && Math.max(...ids) >= 259);
    const loaded = await llama.loadModel({ modelPath: out, checkTensors: true });
    assert.deepEqual([...loaded.tokenize(text)], ids);
    assert.equal(loaded.detokenize(ids as Token[]), text);
    await loaded.dispose();
    const engine = loadEngineModel(again);
    const [score] = scoreTokens(engine, [ids]);
    engine.dispose();
    assert.ok(score!.nll > 0 && Number.isFinite(score!.nll));
  }
  await llama.dispose();
});

test('the command: a GGUF stays one, a folder stays one; what does not fit is refused', async () => {
  const text = join(folder, 'domain.txt');
  writeFileSync(text, `${TEXTS.join('\n')}\n`);
  const model = await writeTinyModel(folder, 'plain', 32);
  const made = await run({ model, files: [text], add: 10, out: join(folder, 'grown') });
  assert.deepEqual([made.vocab_size, made.vocab_size_before, made.added], [269, 259, 10]);
  assert.ok(made.text_tokens < made.text_tokens_before);
  assert.equal((await openModel(made.files[0]!)).config.vocabSize, 269);
  const hf = join(folder, 'hf');
  const checkpoint = await openModel(model);
  await writeSafetensors(checkpoint, hf);
  const other = await run({ model: hf, files: [text], add: 10, out: join(folder, 'hf-grown') });
  assert.deepEqual(other.tokens, made.tokens);
  const opened = await openModel(join(folder, 'hf-grown'));
  assert.deepEqual(opened.tokenizer.encode(TEXTS[0]!), (await openModel(made.files[0]!)).tokenizer.encode(TEXTS[0]!));
  await assert.rejects(run({ model, files: [text], add: 0, out: join(folder, 'no') }), {
    code: 'invalid',
    field: 'add',
  });
  const rows = { ...checkpoint, config: { ...checkpoint.config, vocabSize: 300 } };
  assert.throws(() => growModel(rows, TEXTS, 5), { code: 'invalid', field: 'vocab_size', message: /259.*300/ });
});

test('SmolLM2: its vocabulary grows in the file it came in', { timeout: 60_000 }, async t => {
  const path = await smollm2(t);
  if (path === undefined) return;
  const model = openGguf(path);
  const grown = growModel(model, [...TEXTS, ...TEXTS], 8);
  const out = join(folder, 'smollm2-grown.gguf');
  const written = await writeModelGguf({ ...model, ...grown }, out, { type: 'keep', source: model });
  assert.ok(written.tensors.every(tensor => tensor.how === 'copied'));
  const text = 'A chargeback on my contactless card';
  const ids = openGguf(out).tokenizer.encode(text);
  assert.ok(ids.length < model.tokenizer.encode(text).length);
  const llama = await getLlama({ build: 'never', gpu: false, logLevel: LlamaLogLevel.error });
  const loaded = await llama.loadModel({ modelPath: out });
  assert.deepEqual([...loaded.tokenize(text)], ids);
  await llama.dispose();
});
