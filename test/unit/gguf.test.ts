import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { LearndError } from '../../src/base/errors.ts';
import { writeAtomically } from '../../src/learn/model/formats/atomic-file.ts';
import { dequantize } from '../../src/learn/model/formats/dequantize.ts';
import type { GgmlType } from '../../src/learn/model/formats/ggml.ts';
import { GgufFile } from '../../src/learn/model/formats/gguf-read.ts';
import { writeGguf } from '../../src/learn/model/formats/gguf-write.ts';
import { halfTable, toHalf } from '../../src/learn/model/formats/half.ts';
import { quantize } from '../../src/learn/model/formats/quantize-blocks.ts';
import { SafetensorsFile } from '../../src/learn/model/formats/safetensors-read.ts';
import { writeSafetensorsFile } from '../../src/learn/model/formats/safetensors-write.ts';
import { openModel } from '../../src/learn/model/open.ts';
import { fc, SLOW } from '../support/properties.ts';

interface Golden {
  columns: number;
  values: string;
  blocks: Record<GgmlType, string>;
  decoded: Record<GgmlType, { bytes: string; values: string }>;
  half: { values: string; bits: string };
  file: string;
}

const golden = JSON.parse(readFileSync(new URL('../golden/gguf.json', import.meta.url), 'utf8')) as Golden;
const bytesOf = (base64: string): Uint8Array => new Uint8Array(Buffer.from(base64, 'base64'));
const floatsOf = (base64: string): Float32Array => new Float32Array(bytesOf(base64).buffer);
const folder = mkdtempSync(join(tmpdir(), 'learnd-gguf-'));
test.after(() => rmSync(folder, { recursive: true }));
let files = 0;
const fileOf = (bytes: Uint8Array): string => {
  const path = join(folder, `f${files++ % 4}`);
  writeFileSync(path, bytes);
  return path;
};

test('encoded blocks are byte-equal to gguf-py', () => {
  const values = floatsOf(golden.values);
  for (const [type, expected] of Object.entries(golden.blocks)) {
    assert.deepEqual(quantize(type as GgmlType, values), bytesOf(expected), type);
  }
});

test('decoded blocks are bit-equal to gguf-py, k-quants too', () => {
  for (const [type, { bytes, values }] of Object.entries(golden.decoded)) {
    const expected = floatsOf(values);
    assert.deepEqual(dequantize(type as GgmlType, bytesOf(bytes), expected.length), expected, type);
  }
  for (const type of ['f32', 'f16', 'bf16'] as const) {
    const values = floatsOf(golden.values);
    const decoded = dequantize(type, bytesOf(golden.blocks[type]), values.length);
    const relative = Math.max(...decoded.map((v, i) => Math.abs(v - values[i]!) / (Math.abs(values[i]!) + 1e-4)));
    assert.ok(relative <= { f32: 0, f16: 2 ** -11, bf16: 2 ** -8 }[type], `${type} ${relative}`);
  }
});

test('halves round as numpy rounds, and every half survives', () => {
  const expected = new Uint16Array(bytesOf(golden.half.bits).buffer);
  assert.deepEqual(Uint16Array.from(floatsOf(golden.half.values), toHalf), expected);
  const table = halfTable();
  for (let h = 0; h < 65536; h++) {
    if (!Number.isNaN(table[h]!)) assert.equal(toHalf(table[h]!), h);
  }
});

test('weights that are not numbers, or not a whole number of blocks, cannot be encoded', () => {
  assert.throws(() => quantize('q4_k', new Float32Array(255)), { code: 'invalid', field: 'weights' });
  assert.throws(() => quantize('q8_0', new Float32Array(33)), { code: 'invalid' });
  assert.throws(() => quantize('f16', Float32Array.of(1, Number.NaN)), /weight 1 is NaN/);
});

test('a file of gguf-py is read with every metadata type, and written back with the same content', async () => {
  const original = new GgufFile(fileOf(bytesOf(golden.file)));
  const { 'a.f32': f32, ...rest } = original.plainMetadata();
  assert.equal(f32, Math.fround(0.1));
  assert.deepEqual(rest, {
    'general.architecture': 'test',
    'a.u8': 200,
    'a.i8': -100,
    'a.u16': 60000,
    'a.i16': -30000,
    'a.u32': 4000000000,
    'a.i32': -2000000000,
    'a.u64': 2n ** 63n,
    'a.i64': -(2 ** 40),
    'a.f64': 0.1,
    'a.yes': true,
    'a.text': 'na\u00efve \u65e5\u672c\ufeff',
    'a.words': ['one', '', '\u{1f600}'],
    'a.counts': [1, 2, 3],
    'a.nested': [[1, 2], [3]],
  });
  const values = floatsOf(golden.values);
  assert.deepEqual(original.info('z').shape, [14, 256]);
  assert.deepEqual(original.float('x'), values.subarray(0, 512));
  assert.deepEqual(original.raw('z'), bytesOf(golden.blocks.q8_0));
  assert.deepEqual([...original.float('v')], [0, 1, 2, 3, 4, 5, 6]);

  const copy = join(folder, 'copy.gguf');
  const plans = [...original.tensors.values()].map(info => ({ ...info, bytes: () => original.raw(info.name) }));
  const written = await writeGguf(copy, original.metadata, plans);
  assert.deepEqual(readFileSync(copy), Buffer.from(golden.file, 'base64'), 'byte for byte');
  assert.match(written.sha256, /^[0-9a-f]{64}$/);
});

test('a file that is cut anywhere is corrupt, and says where', () => {
  const whole = bytesOf(golden.file);
  for (let length = 0; length < whole.length; length += length < 200 ? 1 : length < 1500 ? 5 : 997) {
    const path = fileOf(whole.subarray(0, length));
    assert.throws(
      () => new GgufFile(path),
      (error: unknown) => {
        assert.ok(error instanceof LearndError);
        assert.equal(error.code, 'corrupt', error.message);
        assert.match(error.message, /at byte \d+/);
        assert.ok(error.message.startsWith(path));
        return true;
      },
      `cut to ${length}`,
    );
  }
});

test('a file that lies is refused or read, without another kind of error and without large allocations', () => {
  const whole = bytesOf(golden.file);
  const before = process.memoryUsage().rss;
  fc.assert(
    fc.property(
      fc.nat(1500),
      fc.oneof(fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), fc.bigInt({ min: 0n, max: 300n })),
      fc.constantFrom(1, 4, 8),
      (at, value, width) => {
        const bytes = whole.slice();
        for (let i = 0; i < width; i++) bytes[at + i] = Number((value >> BigInt(8 * i)) & 255n);
        try {
          const file = new GgufFile(fileOf(bytes));
          for (const name of file.tensors.keys()) file.float(name);
        } catch (error) {
          assert.ok(error instanceof LearndError && error.code === 'corrupt', String(error));
        }
      },
    ),
    { numRuns: 500, ...SLOW },
  );
  assert.ok(process.memoryUsage().rss - before < 200e6);
});

test('a safetensors header that is cut or lies is corrupt', async () => {
  const path = join(folder, 'x.safetensors');
  const data = Float32Array.of(1, 2, 3, 4, 5, 6);
  await writeSafetensorsFile(path, new Map([['w', { shape: [2, 3], data }]]), 'f32');
  assert.deepEqual(new SafetensorsFile(path).float('w'), data);
  const whole = new Uint8Array(readFileSync(path));
  for (let length = 0; length < whole.length; length++) {
    assert.throws(() => new SafetensorsFile(fileOf(whole.subarray(0, length))), { code: 'corrupt' }, `${length}`);
  }
  fc.assert(
    fc.property(fc.nat(whole.length - 1), fc.nat(255), (at, value) => {
      const bytes = whole.slice();
      bytes[at] = value;
      try {
        const file = new SafetensorsFile(fileOf(bytes));
        for (const name of file.tensors.keys()) file.float(name);
      } catch (error) {
        assert.ok(error instanceof LearndError && error.code === 'corrupt', String(error));
      }
    }),
    { numRuns: 300, ...SLOW },
  );
});

test('what is not a model is refused by what it is', async () => {
  await assert.rejects(openModel(join(folder, 'nothing')), { code: 'not_found' });
  await assert.rejects(openModel(fileOf(new TextEncoder().encode('hello world'))), {
    code: 'corrupt',
    message: /magic at byte 0: not a GGUF file/,
  });
  await assert.rejects(openModel(fileOf(bytesOf(golden.file))), {
    code: 'invalid',
    message: /general.architecture: 'test'/,
  });
  await assert.rejects(openModel(folder), { code: 'not_found', message: /config.json/ });
});

test('a write that fails leaves the old file and no temporary one', async () => {
  const path = join(folder, 'kept');
  writeFileSync(path, 'old');
  const failing = (function* () {
    yield new Uint8Array(10);
    throw new Error('disk on fire');
  })();
  await assert.rejects(writeAtomically(path, failing), /disk on fire/);
  assert.equal(readFileSync(path, 'utf8'), 'old');
  assert.deepEqual(
    readdirSync(folder).filter(name => name.endsWith('.tmp')),
    [],
  );
  await assert.rejects(writeAtomically(join(path, 'below a file'), [new Uint8Array(1)]), { code: 'dependency' });
});

test('a file that is replaced while it is open is noticed', () => {
  const path = fileOf(bytesOf(golden.file));
  const file = new GgufFile(path);
  writeFileSync(path, bytesOf(golden.file).slice(0, -4));
  assert.throws(() => file.float('x'), { code: 'corrupt', message: /changed while it was in use/ });
});
