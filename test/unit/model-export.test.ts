import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { type Importance, prune } from '../../src/learn/compress/prune.ts';
import { quantizeModel, quantizeType } from '../../src/learn/compress/quantize.ts';
import {
  EditedWeights,
  mergeLora,
  writeFeatureModel,
  writeLoraGguf,
  writeModelGguf,
  writePeft,
  writeSafetensors,
} from '../../src/learn/model/export.ts';
import { openGguf } from '../../src/learn/model/formats/gguf-checkpoint.ts';
import { GgufFile } from '../../src/learn/model/formats/gguf-read.ts';
import { SafetensorsFile } from '../../src/learn/model/formats/safetensors-read.ts';
import { openModel } from '../../src/learn/model/open.ts';
import type { HostTensor, LoraAdapter, ModelConfig } from '../../src/learn/model/types.ts';
import { TINY, writeTinyModel } from '../support/tiny-model.ts';

const folder = mkdtempSync(join(tmpdir(), 'learnd-export-'));
test.after(() => rmSync(folder, { recursive: true }));
const model = openGguf(await writeTinyModel(folder, 'tiny', 3));

const q = 'model.layers.1.self_attn.q_proj.weight';
const down = 'model.layers.1.mlp.down_proj.weight';

/** Numbers that name their place. */
const counting = (shape: number[], from = 0): HostTensor => ({
  shape,
  data: Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => (from + i) / 1024),
});

test('q rows stand in the order of pairs in GGUF and in the order of halves in memory', () => {
  const { headDim, hidden } = TINY;
  const stored = model.gguf.float('blk.1.attn_q.weight');
  const read = model.weights.read(q).data;
  for (const [head, half, j] of [
    [0, 0, 0],
    [0, 1, 0],
    [1, 0, 5],
    [1, 1, 7],
  ] as const) {
    const from = (head * headDim + 2 * j + half) * hidden;
    const to = (head * headDim + (half * headDim) / 2 + j) * hidden;
    assert.deepEqual(read.subarray(to, to + hidden), stored.subarray(from, from + hidden));
  }
  assert.deepEqual(model.weights.raw(q)!.bytes(), new Uint8Array(read.buffer, read.byteOffset, read.byteLength));
});

test('a folder for transformers, opened again, is the same model', async () => {
  const dir = join(folder, 'hf');
  await writeSafetensors(model, dir);
  const opened = await openModel(dir);
  assert.deepEqual(opened.config, model.config);
  for (const name of model.weights.names()) assert.deepEqual(opened.weights.read(name), model.weights.read(name), name);
  const text = 'Hello 123 <|im_end|> wörld';
  assert.deepEqual(opened.tokenizer.encode(text), model.tokenizer.encode(text));
  assert.equal(opened.tokenizer.eosId, model.tokenizer.eosId);
  assert.equal(opened.chatTemplate, model.chatTemplate);
  const back = join(folder, 'back.gguf');
  await writeModelGguf({ ...parts(opened), name: 'x' }, back, { type: 'f32' });
  for (const name of model.weights.names()) {
    assert.deepEqual(openGguf(back).weights.read(name), model.weights.read(name), name);
  }
});

const parts = (m: Awaited<ReturnType<typeof openModel>>) => ({
  config: m.config,
  weights: m.weights,
  tokenizer: m.tokenizer,
  ...(m.chatTemplate !== undefined && { chatTemplate: m.chatTemplate }),
});

test('biases, an own head and another head size survive as qwen2; uneven widths as deci', async () => {
  const config: ModelConfig = { ...TINY, attentionBias: true, tied: false, headDim: 8 };
  const weights = new Map<string, HostTensor>();
  const { expectedShapes } = await import('../../src/learn/model/formats/llama-layout.ts');
  for (const [name, shape] of expectedShapes(config)) weights.set(name, counting([...shape], weights.size));
  const path = join(folder, 'qwen.gguf');
  const source = { names: () => [...weights.keys()], shape: shapeOf, read: (n: string) => weights.get(n)! };
  function shapeOf(name: string) {
    return weights.get(name)!.shape;
  }
  await writeModelGguf({ config, weights: source, tokenizer: model.tokenizer }, path, { type: 'f32' });
  const opened = openGguf(path);
  assert.equal(opened.architecture, 'qwen2');
  assert.deepEqual(opened.config, config);
  for (const [name, tensor] of weights) assert.deepEqual(opened.weights.read(name), tensor, name);

  const uneven = openGguf(await writeTinyModel(folder, 'uneven', 4, { config: { ffn: [64, 32] } }));
  assert.equal(uneven.architecture, 'deci');
  assert.deepEqual(uneven.config.ffn, [64, 32]);
  assert.deepEqual(uneven.weights.read('model.layers.0.self_attn.q_proj.weight').data.length, 32 * 32);
  for (const write of [
    writeSafetensors(uneven, join(folder, 'uneven')),
    writeFeatureModel(uneven, 2, path),
    writeModelGguf({ ...uneven, config: { ...uneven.config, attentionBias: true } }, path, { type: 'f32' }),
  ]) {
    await assert.rejects(write, { code: 'invalid', field: 'config.ffn' });
  }
});

test('keep: what did not change is copied as stored, what did is encoded to the type it had', async () => {
  const small = join(folder, 'q4.gguf');
  const first = await writeModelGguf(parts(model), small, { type: 'q4_1', source: model });
  assert.deepEqual(first.notes, ['embeddings are kept in q8_0 under q4_1']);
  const source = openGguf(small);
  const changed = counting([...source.weights.shape(q)]);
  const out = join(folder, 'kept.gguf');
  const weights = EditedWeights.overlay(source.weights, new Map([[q, changed]]));
  const report = await writeModelGguf({ ...parts(source), weights }, out, { type: 'keep', source });
  assert.deepEqual(
    report.tensors.filter(t => t.how === 'encoded').map(t => [t.name, t.type]),
    [[q, 'q4_1']],
  );
  const kept = new GgufFile(out);
  for (const name of kept.tensors.keys()) {
    if (name === 'blk.1.attn_q.weight') assert.notDeepEqual(kept.raw(name), source.gguf.raw(name));
    else assert.deepEqual(kept.raw(name), source.gguf.raw(name), name);
  }
  const error = openGguf(out)
    .weights.read(q)
    .data.map((v, i) => Math.abs(v - changed.data[i]!));
  assert.ok(Math.max(...error) < 0.002, 'in Hugging Face order again, to within half a step');
});

test('quantize: every writable type, its size, and refusals that say what to use', async () => {
  const sizes: number[] = [];
  for (const type of ['f32', 'f16', 'q8_0', 'q5_1', 'q5_0', 'q4_1', 'q4_0']) {
    const made = await quantizeModel(parts(model), join(folder, `${type}.gguf`), { type, source: model });
    sizes.push(made.bytes);
    assert.equal(openGguf(made.path).weights.storedType(down), type);
    assert.equal(openGguf(made.path).weights.storedType('model.norm.weight'), 'f32');
  }
  assert.deepEqual(
    sizes,
    sizes.toSorted((a, b) => b - a),
  );
  assert.throws(() => quantizeType('Q4_K_M'), { code: 'invalid', field: 'type', message: /q4_k is the nearest/ });
  assert.throws(() => quantizeType('int3'), { code: 'invalid', message: /'int3' is not one of f32/ });
});

const importance: Importance = {
  ffn: [0, 1].map(n => Float32Array.from({ length: 64 }, (_, i) => (i % 2 === n ? 1 : 0) + i / 1000)),
  blockInfluence: Float32Array.of(0.9, 0.1),
};

test('prune: the best neurons stay in their order, rows as stored, columns with them', async () => {
  const pruned = prune(model, importance, { ffn: 32 });
  assert.deepEqual(pruned.config.ffn, [32, 32]);
  const up = model.weights.read('model.layers.1.mlp.up_proj.weight').data;
  const kept = pruned.weights.read('model.layers.1.mlp.up_proj.weight').data;
  const downs = model.weights.read(down).data;
  const narrow = pruned.weights.read(down).data;
  for (let i = 0; i < 32; i++) {
    const from = 2 * i + 1; // layer 1 scores its odd neurons higher
    assert.deepEqual(kept.subarray(i * 32, i * 32 + 32), up.subarray(from * 32, from * 32 + 32));
    for (let r = 0; r < 32; r++) assert.equal(narrow[r * 32 + i], downs[r * 64 + from]);
  }
  const out = join(folder, 'pruned.gguf');
  const written = await writeModelGguf({ ...parts(model), ...pruned }, out, { type: 'keep', source: model });
  assert.deepEqual(
    written.tensors.filter(t => t.how === 'encoded').map(t => t.name),
    ['model.layers.0.mlp.down_proj.weight', down],
  );
  assert.deepEqual(openGguf(out).config, pruned.config);
  assert.ok(pruned.parameters[1] < pruned.parameters[0]);
});

test('prune: inner layers of lowest influence go; the first and last never', async () => {
  const deep = openGguf(await writeTinyModel(folder, 'deep', 4, { config: { layers: 5, ffn: [64, 64, 64, 64, 64] } }));
  const influence = Float32Array.of(0, 0.3, 0.1, 0.2, 0);
  const pruned = prune(deep, { ffn: [], blockInfluence: influence }, { dropLayers: 2 });
  assert.deepEqual(pruned.keptLayers, [0, 1, 4]);
  assert.deepEqual(
    pruned.weights.read('model.layers.2.mlp.up_proj.weight'),
    deep.weights.read('model.layers.4.mlp.up_proj.weight'),
  );
  for (const [plan, field] of [
    [{ dropLayers: 4 }, 'drop_layers'],
    [{ ffn: 33 }, 'ffn'],
    [{ ffn: 96 }, 'ffn'],
    [{ ffn: 32 }, 'importance.ffn'],
    [{}, 'prune'],
  ] as const) {
    assert.throws(() => prune(deep, { ffn: [], blockInfluence: influence }, plan), { code: 'invalid', field });
  }
});

const adapter: LoraAdapter = {
  rank: 2,
  alpha: 6,
  pairs: new Map([
    [q, { a: counting([2, 32], 1), b: counting([32, 2], 7) }],
    [down, { a: counting([2, 64], 3), b: counting([32, 2], 5) }],
  ]),
};

test('merge: W + alpha / rank B A', () => {
  const { a, b } = adapter.pairs.get(down)!;
  const merged = mergeLora(model.weights, adapter).read(down).data;
  const base = model.weights.read(down).data;
  for (const [r, c] of [
    [0, 0],
    [31, 63],
    [7, 20],
  ] as const) {
    const delta = 3 * (b.data[2 * r]! * a.data[c]! + b.data[2 * r + 1]! * a.data[64 + c]!);
    assert.ok(Math.abs(merged[64 * r + c]! - (base[64 * r + c]! + delta)) < 1e-6);
  }
});

test('adapters: llama.cpp names and row order, PEFT names and configuration', async () => {
  const path = join(folder, 'lora.gguf');
  await writeLoraGguf(adapter, model, path);
  const file = new GgufFile(path);
  assert.equal(file.metadata.get('adapter.lora.alpha')?.value, 6);
  assert.equal(file.metadata.get('general.type')?.value, 'adapter');
  assert.deepEqual(
    [...file.tensors.keys()],
    [
      'blk.1.attn_q.weight.lora_a',
      'blk.1.attn_q.weight.lora_b',
      'blk.1.ffn_down.weight.lora_a',
      'blk.1.ffn_down.weight.lora_b',
    ],
  );
  const { b } = adapter.pairs.get(q)!;
  const row = (i: number) => [...file.float('blk.1.attn_q.weight.lora_b').subarray(2 * i, 2 * i + 2)];
  assert.deepEqual(row(1), [...b.data.subarray(16, 18)], 'row 1 is the first of the second half');
  assert.deepEqual(row(2), [...b.data.subarray(2, 4)]);

  const dir = join(folder, 'peft');
  await writePeft(adapter, model, dir);
  const config = JSON.parse(readFileSync(join(dir, 'adapter_config.json'), 'utf8'));
  assert.deepEqual([config.r, config.lora_alpha, config.target_modules], [2, 6, ['down_proj', 'q_proj']]);
  assert.deepEqual(config.layers_to_transform, [1]);
  const tensors = new SafetensorsFile(join(dir, 'adapter_model.safetensors'));
  assert.deepEqual(tensors.float('base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight'), b.data);
  const wrong = { ...adapter, pairs: new Map([['model.norm.weight', adapter.pairs.get(q)!]]) };
  await assert.rejects(writeLoraGguf(wrong, model, path), { code: 'invalid', message: /not a linear layer/ });
});

test('a feature model has the first blocks as stored, a norm of ones, and says how to pool', async () => {
  const path = join(folder, 'features.gguf');
  await writeFeatureModel(model, 1, path);
  const file = openGguf(path);
  assert.equal(file.architecture, 'llama-embed');
  assert.equal(file.metadata['llama-embed.pooling_type'], 1);
  assert.equal(file.metadata['llama-embed.attention.causal'], true);
  assert.equal(file.metadata['llama-embed.block_count'], 1);
  assert.ok(!Object.keys(file.metadata).some(key => key.startsWith('llama.')));
  assert.deepEqual(new Set(file.gguf.float('output_norm.weight')), new Set([1]));
  for (const name of ['token_embd.weight', 'blk.0.attn_q.weight', 'blk.0.ffn_down.weight']) {
    assert.deepEqual(file.gguf.raw(name), model.gguf.raw(name));
  }
  assert.ok(!file.gguf.tensors.has('blk.1.attn_q.weight'));
  await assert.rejects(writeFeatureModel(model, 3, path), { code: 'invalid', field: 'layers' });
});

test('a folder whose weights do not fit its configuration is corrupt, one of another family is refused', async () => {
  const dir = join(folder, 'broken');
  await writeSafetensors(model, dir);
  const config = JSON.parse(readFileSync(join(dir, 'config.json'), 'utf8'));
  const rewritten = (changes: Record<string, unknown>) =>
    writeFileSync(join(dir, 'config.json'), JSON.stringify({ ...config, ...changes }));
  rewritten({ intermediate_size: 128 });
  await assert.rejects(openModel(dir), { code: 'corrupt', message: /mlp.gate_proj.weight has shape \[64, 32\]/ });
  rewritten({ model_type: 'gpt2' });
  await assert.rejects(openModel(dir), { code: 'invalid', field: 'model_type' });
  rewritten({ rope_scaling: { rope_type: 'llama3', factor: 8 } });
  await assert.rejects(openModel(dir), { code: 'invalid', field: 'rope_scaling' });
  writeFileSync(join(dir, 'config.json'), '{"model_type": ');
  await assert.rejects(openModel(dir), { code: 'corrupt', message: /config.json: not JSON/ });
});
