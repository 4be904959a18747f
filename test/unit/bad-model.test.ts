import assert from 'node:assert/strict';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { LearndError } from '../../src/base/errors.ts';
import { textLines } from '../../src/cli/text-lines.ts';
import { writeModelGguf, writeSafetensors } from '../../src/learn/model/export.ts';
import { openModel } from '../../src/learn/model/open.ts';
import { fc, SLOW } from '../support/properties.ts';
import { writeTinyModel } from '../support/tiny-model.ts';

/** Files that are cut, that lie, or that are something else: always an error that says where, never a crash or a half model. */

const folder = mkdtempSync(join(tmpdir(), 'learnd-bad-'));
test.after(() => rmSync(folder, { recursive: true }));
const tiny = await writeTinyModel(folder, 'tiny', 7);
const whole = new Uint8Array(readFileSync(tiny));
const hf = join(folder, 'hf');
await writeSafetensors(await openModel(tiny), hf);

let files = 0;
function fileOf(bytes: Uint8Array): string {
  const path = join(folder, `m${files++ % 50}.gguf`);
  writeFileSync(path, bytes);
  return path;
}

/** Opens everything a model has. */
async function readAll(path: string): Promise<void> {
  const model = await openModel(path);
  for (const name of model.weights.names()) model.weights.read(name);
  model.tokenizer.decode(model.tokenizer.encode('Hello, <|im_end|> wörld 123', { allowSpecial: true }));
}

/** Passes when the model is read, or refused by an error that names the file. */
async function readOrRefused(path: string): Promise<'read' | 'refused'> {
  try {
    await readAll(path);
    return 'read';
  } catch (error) {
    assert.ok(error instanceof LearndError, `${(error as Error).stack}`);
    assert.ok(['corrupt', 'invalid', 'not_found'].includes(error.code), `${error.code}: ${error.message}`);
    assert.ok(error.message.includes(path), error.message);
    return 'refused';
  }
}

const HEADER = 4200;

test('GGUF: numbers overwritten, bytes cut out or put in, the end gone; memory stays bounded', async () => {
  const before = process.memoryUsage().rss;
  const outcomes = { read: 0, refused: 0 };
  const overwritten = fc
    .record({
      at: fc.nat(HEADER),
      value: fc.oneof(fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), fc.bigInt({ min: 0n, max: 300n })),
      width: fc.constantFrom(1, 4, 8),
    })
    .map(({ at, value, width }) => {
      const bytes = whole.slice();
      for (let i = 0; i < width; i++) bytes[at + i] = Number((value >> BigInt(8 * i)) & 255n);
      return bytes;
    });
  const spliced = fc
    .record({ at: fc.nat(HEADER), drop: fc.nat(40), put: fc.uint8Array({ maxLength: 40 }) })
    .map(({ at, drop, put }) => Buffer.concat([whole.subarray(0, at), put, whole.subarray(at + drop)]));
  const cut = fc.nat(whole.length - 1).map(length => whole.subarray(0, length));
  await fc.assert(
    fc.asyncProperty(fc.oneof(overwritten, spliced, cut), async bytes => {
      outcomes[await readOrRefused(fileOf(bytes))]++;
    }),
    { numRuns: 250, ...SLOW },
  );
  assert.ok(outcomes.refused > 100 && outcomes.read > 3, JSON.stringify(outcomes));
  assert.ok(process.memoryUsage().rss - before < 250e6);
});

/** Where a header has a key or a tensor's name, and the bytes after it. */
function after(text: string): number {
  const at = Buffer.from(whole).indexOf(text);
  assert.ok(at > 0, text);
  return at + text.length;
}

function patched(at: number, value: bigint, width: number): string {
  const bytes = whole.slice();
  for (let i = 0; i < width; i++) bytes[at + i] = Number((value >> BigInt(8 * i)) & 255n);
  return fileOf(bytes);
}

test('GGUF: each lie is told with the field and the byte', async () => {
  const name = 'blk.0.ffn_up.weight';
  const dims = after(name) + 4;
  for (const [what, path, field] of [
    ['2^60 tensors', patched(8, 1n << 60n, 8), 'tensor_count'],
    ['2^60 keys', patched(16, 1n << 60n, 8), 'kv_count'],
    ['a key of 2^40 bytes', patched(24, 1n << 40n, 8), 'metadata key 0.length'],
    [
      'a list of 2^50 tokens',
      patched(after('tokenizer.ggml.tokens') + 8, 1n << 50n, 8),
      'metadata.tokenizer.ggml.tokens.length',
    ],
    ['a type that is none', patched(after('general.architecture'), 77n, 4), 'metadata.general.architecture.type'],
    ['a tensor of 9 dimensions', patched(after(name), 9n, 4), `${name}.n_dims`],
    ['a dimension of 2^50', patched(dims, 1n << 50n, 8), `${name}.dims[0]`],
    ['a dimension of 2^36', patched(dims + 8, 1n << 36n, 8), `${name}.offset`],
    ['a quantization of another program', patched(dims + 16, 16n, 4), `${name}.type`],
    ['data beyond the file', patched(dims + 20, BigInt(whole.length - 64) & ~31n, 8), `${name}.offset`],
    ['data that is not aligned', patched(dims + 20, 7n, 8), `${name}.offset`],
  ] as const) {
    await assert.rejects(readAll(path), (error: LearndError) => {
      assert.equal(error.code, 'corrupt', what);
      assert.equal(error.field, field, what);
      assert.match(error.message, /at byte \d+/);
      assert.ok(error.message.startsWith(path));
      return true;
    });
  }
});

test('GGUF: another architecture, another tokenizer, more tokens than rows', async () => {
  const text = (from: string, to: string): string => {
    const bytes = Buffer.from(whole);
    bytes.write(to, after(from) - from.length);
    return fileOf(bytes);
  };
  const model = after('tokenizer.ggml.model') + 12;
  const spm = Buffer.from(whole);
  spm.write('abcd', model);
  await assert.rejects(readAll(text('\u0005\0\0\0\0\0\0\0llama', '\u0005\0\0\0\0\0\0\0mamba')), {
    code: 'invalid',
    message: /general\.architecture: 'mamba' is not one of llama/,
  });
  await assert.rejects(readAll(fileOf(spm)), { code: 'invalid', field: 'tokenizer.ggml.model' });
  const small = await openModel(tiny);
  const out = join(folder, 'fewer.gguf');
  const rows = { shape: [200, 32], data: small.weights.read('model.embed_tokens.weight').data.slice(0, 200 * 32) };
  await writeModelGguf(
    {
      ...small,
      config: { ...small.config, vocabSize: 200 },
      weights: {
        names: () => small.weights.names(),
        shape: key => (key === 'model.embed_tokens.weight' ? rows.shape : small.weights.shape(key)),
        read: key => (key === 'model.embed_tokens.weight' ? rows : small.weights.read(key)),
      },
    },
    out,
    { type: 'f32', source: small },
  );
  await assert.rejects(readAll(out), { code: 'corrupt', field: 'tokenizer', message: /259 tokens.*200/ });
});

/** A copy of the folder with one file replaced (undefined: deleted). */
function folderWith(file: string, content: string | Uint8Array | undefined): string {
  const path = join(folder, `f${files++ % 20}`);
  rmSync(path, { recursive: true, force: true });
  cpSync(hf, path, { recursive: true });
  if (content === undefined) rmSync(join(path, file));
  else writeFileSync(join(path, file), content);
  return path;
}

function safetensors(header: string, data = 0, length = BigInt(Buffer.byteLength(header))): Uint8Array {
  const head = Buffer.alloc(8);
  head.writeBigUInt64LE(length);
  return Buffer.concat([head, Buffer.from(header), Buffer.alloc(data)]);
}

test('safetensors: headers that lie or explode are corrupt', async () => {
  const entry = (change: object): string =>
    JSON.stringify({ w: { dtype: 'F32', shape: [2, 2], data_offsets: [0, 16], ...change } });
  for (const [what, bytes] of [
    ['a header of 2^63 bytes', safetensors('{}', 0, 1n << 63n)],
    ['a header longer than the file', safetensors('{}', 0, 99_000_000n)],
    ['nested 100,000 deep', safetensors(`${'['.repeat(100_000)}${']'.repeat(100_000)}`)],
    ['half an object', safetensors('{"w":')],
    ['no UTF-8', safetensors('{"\xff', 0)],
    ['a list', safetensors('[]')],
    ['a tensor that is null', safetensors('{"w":null}')],
    ['counts that overflow', safetensors(entry({ shape: [2 ** 40, 2 ** 40, 2 ** 40] }), 16)],
    ['a negative count', safetensors(entry({ shape: [-2, -2] }), 16)],
    ['half a weight', safetensors(entry({ shape: [2.5, 2] }), 16)],
    ['data beyond the end', safetensors(entry({}), 8)],
    ['offsets the wrong way', safetensors(entry({ data_offsets: [16, 0] }), 16)],
    ['four bits a weight', safetensors(entry({ dtype: 'F4' }), 16)],
    ['a type called as a method', safetensors(entry({ dtype: 'constructor' }), 16)],
  ] as const) {
    const path = folderWith('model.safetensors', bytes);
    await assert.rejects(readAll(path), (error: LearndError) => {
      assert.ok(error instanceof LearndError, `${what}: ${error}`);
      assert.equal(error.code, 'corrupt', `${what}: ${error.message}`);
      assert.ok(error.message.includes(path), what);
      return true;
    });
  }
});

test('folders: what is missing or does not fit is named', async () => {
  const json = (name: string) => JSON.parse(readFileSync(join(hf, name), 'utf8'));
  const config = json('config.json');
  const index = (map: unknown) => JSON.stringify({ weight_map: map });
  for (const [path, code, message] of [
    [folderWith('tokenizer.json', undefined), 'not_found', /tokenizer\.json/],
    [folderWith('config.json', undefined), 'not_found', /config\.json/],
    [folderWith('model.safetensors', undefined), 'corrupt', /is missing/],
    [folderWith('config.json', JSON.stringify({ ...config, model_type: 'mamba' })), 'invalid', /model_type: 'mamba'/],
    [folderWith('config.json', JSON.stringify({ ...config, num_hidden_layers: 3 })), 'corrupt', /layers\.2.*missing/],
    [folderWith('config.json', JSON.stringify({ ...config, hidden_size: 1e300 })), 'corrupt', /hidden_size/],
    [folderWith('config.json', Buffer.from([0x7b, 0xff, 0x7d])), 'corrupt', /config\.json: not UTF-8/],
    [folderWith('model.safetensors.index.json', index({ w: 'gone.safetensors' })), 'not_found', /gone\.safetensors/],
    [folderWith('model.safetensors.index.json', index({ w: '../x.safetensors' })), 'corrupt', /the index names/],
    [folderWith('model.safetensors.index.json', '{"weight_map":null}'), 'corrupt', /weight_map/],
    [
      folderWith('tokenizer.json', JSON.stringify({ ...json('tokenizer.json'), added_tokens: [null] })),
      'corrupt',
      /added_tokens\[0\]/,
    ],
  ] as const) {
    await assert.rejects(readAll(path), { code, message });
  }
});

test('folders: any value anywhere in the JSON files is read or refused', async () => {
  const paths = (value: unknown, at: (string | number)[] = []): (string | number)[][] =>
    typeof value !== 'object' || value === null || at.length > 4
      ? [at]
      : [
          at,
          ...Object.keys(value)
            .slice(0, 40)
            .flatMap(key => paths((value as Record<string, unknown>)[key], [...at, key])),
        ];
  const deep = JSON.parse(`${'{"type":"Sequence","pretokenizers":['.repeat(2000)}${']}'.repeat(2000)}`);
  for (const name of ['config.json', 'tokenizer.json', 'tokenizer_config.json']) {
    const original = JSON.parse(readFileSync(join(hf, name), 'utf8'));
    const path = folderWith(name, JSON.stringify(original));
    const places = paths(original).filter(at => at.length > 0);
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(...places),
        fc.oneof(fc.jsonValue(), fc.constant(deep), fc.integer()),
        async (at, value) => {
          const changed = structuredClone(original);
          const parent = at.slice(0, -1).reduce((node, key) => node[key], changed);
          parent[at.at(-1)!] = value;
          writeFileSync(join(path, name), JSON.stringify(changed));
          await readOrRefused(path);
        },
      ),
      { numRuns: 50, ...SLOW },
    );
  }
});

test('a model that cannot be written whole is not there at all', async () => {
  const model = await openModel(tiny);
  let reads = 0;
  const weights = {
    names: () => model.weights.names(),
    shape: (name: string) => model.weights.shape(name),
    read: (name: string) => {
      if (++reads > 5) throw new LearndError('corrupt', 'the source broke off');
      return model.weights.read(name);
    },
  };
  const out = join(folder, 'never', 'model.gguf');
  await assert.rejects(writeModelGguf({ ...model, weights }, out, { type: 'q8_0' }), /broke off/);
  assert.deepEqual(readdirSync(join(folder, 'never')), []);
  // Over a model that is there already: what is left is no model, rather than one of two halves.
  reads = 0;
  const dir = join(folder, 'over');
  mkdirSync(dir);
  cpSync(hf, dir, { recursive: true });
  await assert.rejects(writeSafetensors({ ...model, weights }, dir), /broke off/);
  assert.equal(existsSync(join(dir, 'config.json')), false);
  await assert.rejects(openModel(dir), { code: 'not_found', message: /config\.json/ });
});

test('text that is not UTF-8 is refused with its line and byte', () => {
  const path = join(folder, 'latin1.txt');
  writeFileSync(path, Buffer.concat([Buffer.from('good line\nÜber\n'), Buffer.from('Stra\xdfe\n', 'latin1')]));
  assert.throws(() => textLines(path), { code: 'invalid', field: 'file', message: /latin1\.txt.*byte 20, in line 3/ });
  writeFileSync(path, '\ufeffbom\r\n\n  two \n');
  assert.deepEqual(textLines(path), ['bom', 'two']);
  writeFileSync(path, '\n  \n');
  assert.throws(() => textLines(path), { code: 'invalid', message: /holds no text/ });
});
