import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { QUANTIZATIONS } from '../../src/events/actions.ts';
import { quantizeModel } from '../../src/learn/compress/quantize.ts';
import { EditedWeights, writeModelGguf } from '../../src/learn/model/export.ts';
import { dequantize } from '../../src/learn/model/formats/dequantize.ts';
import { openGguf } from '../../src/learn/model/formats/gguf-checkpoint.ts';
import { halfTable } from '../../src/learn/model/formats/half.ts';
import { quantize } from '../../src/learn/model/formats/quantize-blocks.ts';
import { notBuilt } from '../../src/loop/policy/built.ts';
import { fc } from '../support/properties.ts';
import { writeTinyModel } from '../support/tiny-model.ts';

const K_TYPES = ['q4_k', 'q5_k', 'q6_k'] as const;
type KType = (typeof K_TYPES)[number];

interface Figures {
  blocks_sha256: string;
  decoded_sha256: string;
  rms_error: number;
  llama_cpp_rms_error: number;
}
const { sets } = JSON.parse(readFileSync(new URL('../golden/k-quants.json', import.meta.url), 'utf8')) as {
  sets: Record<string, { shape: number[]; halves?: string; types: Record<KType, Figures> }>;
};

const folder = mkdtempSync(join(tmpdir(), 'learnd-k-quants-'));
test.after(() => rmSync(folder, { recursive: true }));

const valuesOf = (halves: string): Float32Array =>
  Float32Array.from(new Uint16Array(new Uint8Array(Buffer.from(halves, 'base64')).buffer), h => halfTable()[h]!);
const sha256 = (data: Uint8Array | Float32Array): string =>
  createHash('sha256')
    .update(new Uint8Array(data.buffer, data.byteOffset, data.byteLength))
    .digest('hex');
const coded = (type: KType, values: Float32Array): Float32Array =>
  dequantize(type, quantize(type, values), values.length);
const rms = (a: Float32Array, b: Float32Array): number =>
  Math.sqrt(a.reduce((sum, v, i) => sum + (v - b[i]!) ** 2, 0) / a.length);

test('k-quant blocks: gguf-py reads what learnd reads, and the error is at most 1.02 of what llama.cpp leaves', () => {
  for (const [name, { halves, types }] of Object.entries(sets)) {
    for (const type of K_TYPES) {
      const known = types[type];
      // Of SmolLM2's rows the figures alone are kept.
      assert.ok(known.rms_error <= 1.02 * known.llama_cpp_rms_error, `${name} ${type}`);
      if (halves === undefined) continue;
      const values = valuesOf(halves);
      const blocks = quantize(type, values);
      assert.equal(sha256(blocks), known.blocks_sha256, `${name} ${type}`);
      const decoded = dequantize(type, blocks, values.length);
      assert.equal(sha256(decoded), known.decoded_sha256, `${name} ${type}`);
      assert.ok(Math.abs(rms(values, decoded) / known.rms_error - 1) < 1e-9);
    }
  }
});

test('k-quants of blocks that are odd', () => {
  for (const type of K_TYPES) {
    assert.deepEqual(coded(type, new Float32Array(512)), new Float32Array(512));
    // Steps of small blocks are subnormal halves, which are coarse.
    for (const value of [0.37, -0.37, 1e-3, -250]) {
      const off = coded(type, new Float32Array(256).fill(value)).map(v => Math.abs(v / value - 1));
      assert.ok(Math.max(...off) < (Math.abs(value) < 0.01 ? 5e-3 : 5e-4), `${type} ${value}: ${Math.max(...off)}`);
    }
    const huge = new Float32Array(512).fill(0.01);
    huge[77] = 65504;
    const kept = coded(type, huge);
    assert.ok(Math.abs(kept[77]! / 65504 - 1) < 0.02, `${type}: the huge one is ${kept[77]}`);
    assert.ok(Math.abs(kept[300]! - 0.01) < 5e-5, 'the next block does not feel it');
  }
});

test('k-quants: no weight is off by more than two steps of its block, whatever it is', () => {
  const steps: Record<KType, number> = { q4_k: 15, q5_k: 31, q6_k: 31 };
  const block = fc.tuple(
    fc.array(fc.double({ min: -1, max: 1, noNaN: true }), { minLength: 256, maxLength: 256 }),
    fc.integer({ min: -12, max: 15 }),
    fc.nat(255),
  );
  fc.assert(
    fc.property(block, fc.constantFrom(...K_TYPES), ([drawn, power, spread], type) => {
      // Groups of very different size share one block.
      const values = Float32Array.from(drawn, (v, i) => v * 2 ** (power - ((i >> 5) * spread) / 64));
      const decoded = coded(type, values);
      const range = Math.max(0, ...values) - Math.min(0, ...values);
      for (const [i, v] of values.entries()) {
        const off = Math.abs(decoded[i]! - v);
        assert.ok(off <= (2 * range) / steps[type] + 1e-6, `${type}: weight ${i} of ${range} is off by ${off}`);
      }
    }),
    { numRuns: 200 },
  );
});

test('what no code holds is refused with the name of the tensor, and leaves no file', async () => {
  const model = openGguf(await writeTinyModel(folder, 'wide', 3, { config: { ffn: [256, 256] } }));
  const name = 'model.layers.1.mlp.down_proj.weight';
  const out = join(folder, 'refused.gguf');
  for (const [value, reason] of [
    [Number.NaN, /weight 300 is NaN/],
    [Number.POSITIVE_INFINITY, /weight 300 is Infinity/],
    [1e6, /weight 300 is 1000000; q4_k holds nothing beyond 65504/],
  ] as const) {
    const tensor = model.weights.read(name);
    const data = tensor.data.slice();
    data[300] = value;
    const weights = EditedWeights.overlay(model.weights, new Map([[name, { ...tensor, data }]]));
    await assert.rejects(quantizeModel({ ...model, weights }, out, { type: 'q4_k', source: model }), {
      code: 'invalid',
      field: name,
      message: reason,
    });
    assert.throws(() => readFileSync(out), { code: 'ENOENT' });
  }
  assert.throws(() => quantize('q6_k', new Float32Array(320)), { code: 'invalid', message: /blocks of 256/ });
});

test('rows that do not divide into 256 take the type llama.cpp falls back to, and the result says how many', async () => {
  const mixed = openGguf(await writeTinyModel(folder, 'mixed', 3, { config: { ffn: [256, 256] } }));
  for (const [type, small, fileType] of [
    ['q4_k', 'q5_0', 15],
    ['q5_k', 'q5_1', 17],
    ['q6_k', 'q8_0', 18],
  ] as const) {
    const made = await quantizeModel(mixed, join(folder, `${type}.gguf`), { type, source: mixed });
    const read = openGguf(made.path);
    const kept = (name: string) => read.weights.storedType(name);
    assert.equal(kept('model.layers.0.mlp.down_proj.weight'), type);
    assert.equal(kept('model.layers.0.mlp.up_proj.weight'), small);
    // Of 32 columns: q6_k, which the embedding is kept in, falls back in turn.
    assert.equal(kept('model.embed_tokens.weight'), 'q8_0');
    const types = type === 'q6_k' ? { q8_0: 13, q6_k: 2 } : { [small]: 12, [type]: 2, q8_0: 1 };
    assert.deepEqual(made.types, { ...types, f32: 5 });
    assert.ok(made.notes.includes(`rows of 32 do not divide into ${type}'s blocks of 256: ${small}`));
    assert.match(made.notes.at(-1)!, new RegExp(`^tensors: 1[23] ${small}, 5 f32, 2 ${type}`));
    assert.deepEqual(read.gguf.plainMetadata()['general.file_type'], fileType);
    assert.deepEqual(read.gguf.plainMetadata()['general.quantization_version'], 2);
    // Kept as stored, a k-quant that was changed is encoded anew.
    const name = 'model.layers.1.mlp.down_proj.weight';
    const tensor = read.weights.read(name);
    const changed = { ...tensor, data: tensor.data.map(v => v / 2) };
    const weights = EditedWeights.overlay(read.weights, new Map([[name, changed]]));
    const again = await writeModelGguf({ ...read, weights }, join(folder, 'again.gguf'), {
      type: 'keep',
      source: read,
    });
    assert.deepEqual(
      again.tensors.filter(t => t.how === 'encoded').map(t => [t.name, t.type]),
      [[name, type]],
    );
    assert.equal(openGguf(again.path).gguf.plainMetadata()['general.file_type'], { q4_k: 8, q5_k: 9, q6_k: 7 }[type]);
  }
  const odd = openGguf(await writeTinyModel(folder, 'odd', 3, { config: { ffn: [48, 48] } }));
  const made = await quantizeModel(odd, join(folder, 'odd-q4_k.gguf'), { type: 'q4_k', source: odd });
  assert.equal(openGguf(made.path).weights.storedType('model.layers.0.mlp.down_proj.weight'), 'f16');
});

test('a rule may ask for every type', () => {
  for (const type of QUANTIZATIONS) assert.equal(notBuilt({ do: 'quantize', type }), undefined);
});
