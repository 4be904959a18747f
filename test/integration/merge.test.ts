import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { run as runExport } from '../../src/cli/export.ts';
import { run } from '../../src/cli/model-merge.ts';
import { padBatch } from '../../src/learn/model/engine/batch.ts';
import { forwardTokens } from '../../src/learn/model/engine/forward.ts';
import { headLogits } from '../../src/learn/model/engine/head.ts';
import { loadEngineModel } from '../../src/learn/model/engine/index.ts';
import { mergeLora, writePeft } from '../../src/learn/model/export.ts';
import { readPeft } from '../../src/learn/model/formats/peft-read.ts';
import { readLoraGguf } from '../../src/learn/model/lora.ts';
import { openModel } from '../../src/learn/model/open.ts';
import type { ModelConfig, WeightSource } from '../../src/learn/model/types.ts';
import { engineGolden, relativeError, unpack, weightSource } from '../support/engine-golden.ts';
import { writeTinyLora, writeTinyModel } from '../support/tiny-model.ts';

const folder = mkdtempSync(join(tmpdir(), 'learnd-merge-'));
test.after(() => rmSync(folder, { recursive: true }));
const golden = JSON.parse(readFileSync(new URL('../golden/peft.json', import.meta.url), 'utf8')) as {
  adapters: Record<string, { files: Record<string, string>; logits: Parameters<typeof unpack>[0] }>;
};
const base = engineGolden.cases.tied!;
const weights = weightSource(base.weights);

function peftFolder(name: string, change: Record<string, unknown> = {}): string {
  const dir = join(folder, `peft-${name}-${Object.keys(change).join('-')}`);
  mkdirSync(dir, { recursive: true });
  for (const [file, content] of Object.entries(golden.adapters[name]!.files))
    writeFileSync(join(dir, file), Buffer.from(content, 'base64'));
  const config = JSON.parse(readFileSync(join(dir, 'adapter_config.json'), 'utf8'));
  writeFileSync(join(dir, 'adapter_config.json'), JSON.stringify({ ...config, ...change }));
  return dir;
}

function logitsOf(model: { config: ModelConfig; weights: WeightSource }, ids: readonly number[]): Float32Array {
  const engine = loadEngineModel(model);
  const batch = padBatch([ids], engine.config);
  const hidden = forwardTokens(engine, batch);
  const logits = headLogits(engine, hidden, Int32Array.from(ids.keys()));
  const data = Float32Array.from(logits.dataSync());
  hidden.dispose();
  logits.dispose();
  engine.dispose();
  return data;
}

test('adapters that PEFT saved, merged here, give the logits of PEFT', () => {
  for (const [name, { logits }] of Object.entries(golden.adapters)) {
    const adapter = readPeft(peftFolder(name), weights);
    const merged = mergeLora(weights, adapter);
    const found = logitsOf({ config: base.config, weights: merged }, engineGolden.sequences[0]!);
    assert.ok(relativeError(found, unpack(logits).data) < 1e-5, name);
    assert.equal(adapter.pairs.size, name === 'some' ? 2 : 14);
  }
});

test('PEFT adapters of another kind, or for another model, are refused by name', async () => {
  for (const [change, field] of [
    [{ use_dora: true }, 'use_dora'],
    [{ bias: 'all' }, 'bias'],
    [{ peft_type: 'IA3' }, 'peft_type'],
    [{ rank_pattern: { q_proj: 4 } }, 'rank_pattern'],
  ] as const) {
    assert.throws(() => readPeft(peftFolder('plain', change), weights), { code: 'invalid', field });
  }
  assert.throws(() => readPeft(peftFolder('plain', { r: 3 }), weights), {
    code: 'corrupt',
    message: /do not fit rank 3/,
  });
  const other = await openModel(await writeTinyModel(folder, 'other', 9));
  assert.throws(() => readPeft(peftFolder('plain'), other.weights), { code: 'corrupt', message: /do not fit/ });
  assert.throws(() => readPeft(folder, weights), { code: 'not_found', message: /adapter_config\.json/ });
});

test('model merge: from a GGUF adapter and from PEFT the same, at a scale, into GGUF and into a folder', async () => {
  const model = await writeTinyModel(folder, 'tiny', 8);
  const lora = await writeTinyLora(model, join(folder, 'lora.gguf'), 4);
  const checkpoint = await openModel(model);
  const peft = join(folder, 'peft');
  await writePeft(readLoraGguf(lora, checkpoint.config), checkpoint, peft);
  const one = await run({ model, adapter: lora, scale: 0.5, out: join(folder, 'one.gguf') });
  const two = await run({ model, adapter: peft, scale: 0.5, out: join(folder, 'two.gguf') });
  assert.equal(one.files[0]!.sha256, two.files[0]!.sha256);
  assert.deepEqual([one.rank, one.changed], [2, 2]);
  const dir = await run({ model, adapter: lora, scale: 0.5, out: join(folder, 'merged') });
  assert.equal(dir.files.length, 4);
  const [a, b] = [await openModel(one.files[0]!.path), await openModel(dir.out)];
  const ids = checkpoint.tokenizer.encode('A merged model answers.');
  assert.ok(relativeError(logitsOf(a, ids), logitsOf(b, ids)) < 1e-6);
  assert.ok(relativeError(logitsOf(a, ids), logitsOf(checkpoint, ids)) > 0.01);
  await assert.rejects(run({ model, out: join(folder, 'x.gguf') }), { code: 'invalid', field: 'adapter' });
  await assert.rejects(run({ model, adapter: lora, out: model }), { code: 'invalid', field: 'out' });
});

test('export: a folder becomes a GGUF, a GGUF a folder of halves, each in the type asked for', async () => {
  const model = await writeTinyModel(folder, 'source', 10);
  const hf = await runExport({ model, format: 'safetensors', type: 'bf16', out: join(folder, 'bf16') });
  assert.equal(hf.files.length, 4);
  const back = await runExport({ model: join(folder, 'bf16'), format: 'gguf', out: join(folder, 'back') });
  assert.equal(back.files.length, 1);
  const again = await openModel(back.files[0]!.path);
  const name = 'model.layers.1.mlp.up_proj.weight';
  const original = (await openModel(model)).weights.read(name).data;
  assert.ok(relativeError(again.weights.read(name).data, original) < 2 ** -8);
  const q8 = await runExport({ model, format: 'gguf', type: 'q8_0', out: join(folder, 'q8') });
  const stored = (await openModel(q8.files[0]!.path)).weights as WeightSource & { storedType(name: string): string };
  assert.equal(stored.storedType(name), 'q8_0');
  await assert.rejects(runExport({ model, format: 'safetensors', type: 'q8_0', out: folder }), { field: 'type' });
});
