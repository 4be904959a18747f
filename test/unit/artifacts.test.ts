import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { fileURLToPath } from 'node:url';
import { LearndError } from '../../src/base/errors.ts';
import { artifactsFolder, openArtifacts } from '../../src/store/artifacts.ts';

function folder(t: TestContext): string {
  const path = mkdtempSync(join(tmpdir(), 'learnd-artifacts-'));
  t.after(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

const sha256 = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');

test('a file is stored once, by its content', async t => {
  const root = folder(t);
  const artifacts = await openArtifacts(root);
  const bytes = Buffer.alloc(3_000_001, 'weights');
  const source = join(root, 'source.bin');
  writeFileSync(source, bytes);
  const blob = await artifacts.put(source, 'gguf');
  assert.deepEqual(blob, { file: `blobs/${sha256(bytes)}.gguf`, sha256: sha256(bytes), bytes: bytes.length });
  assert.deepEqual(await artifacts.putBytes(bytes, 'gguf'), blob);
  const both = await Promise.all(Array.from({ length: 5 }, () => artifacts.putBytes(Buffer.from('x'), 'json')));
  assert.equal(new Set(both.map(({ file }) => file)).size, 1);
  assert.deepEqual(readFileSync(await artifacts.path(blob)), bytes);
  await artifacts.verify(blob);
  assert.equal(readdirSync(join(root, 'blobs')).length, 2);
  assert.deepEqual(readdirSync(join(root, 'tmp')), []);
});

test('missing, cut short, changed, and outside: each is said', async t => {
  const root = folder(t);
  const artifacts = await openArtifacts(root);
  const blob = await artifacts.putBytes(Buffer.from('0123456789'), 'bin');
  const path = await artifacts.path(blob);
  writeFileSync(path, '012345678X');
  assert.equal(await artifacts.path(blob), path);
  await assert.rejects(artifacts.verify(blob), /does not have the content its name says/);
  truncateSync(path, 4);
  await assert.rejects(artifacts.path(blob), /has 4 bytes, not 10/);
  // Putting the right content again mends it.
  await artifacts.putBytes(Buffer.from('0123456789'), 'bin');
  await artifacts.verify(blob);
  rmSync(path);
  await assert.rejects(artifacts.path(blob), (error: unknown) => {
    assert.ok(error instanceof LearndError && error.code === 'corrupt');
    assert.match(error.message, /is missing/);
    return true;
  });
  await assert.rejects(artifacts.path({ ...blob, file: 'blobs/../../secret' }), /lies outside/);
  await assert.rejects(artifacts.putBytes(Buffer.from(''), '../x'), { code: 'invalid', field: 'ext' });
  await assert.rejects(artifacts.put(join(root, 'nowhere'), 'bin'), /ENOENT/);
  assert.deepEqual(readdirSync(join(root, 'tmp')), []);
});

test('what a killed writer left is removed after a day, and what is being written is not', async t => {
  const root = folder(t);
  mkdirSync(join(root, 'tmp'));
  for (const name of ['old', 'new']) writeFileSync(join(root, 'tmp', name), '');
  const before = Date.now() / 1000 - 25 * 3600;
  utimesSync(join(root, 'tmp', 'old'), before, before);
  await openArtifacts(root);
  assert.deepEqual(readdirSync(join(root, 'tmp')), ['new']);
});

test('addresses', () => {
  assert.equal(artifactsFolder('/a/b'), '/a/b');
  assert.equal(artifactsFolder('file:///a/b'), '/a/b');
  assert.throws(() => artifactsFolder('s3://bucket/models'), { code: 'unavailable_feature', message: /s3:\/\// });
});

/** A mount of 1 MiB needs a mount namespace; where there is none, the disk cannot be filled without filling the real one. */
const enter = ['--user', '--map-root-user', '--mount', '--'];
const mountable =
  process.platform === 'linux' &&
  spawnSync('unshare', [...enter, 'mount', '-t', 'tmpfs', 'none', '/mnt'], { stdio: 'ignore' }).status === 0;

test('a full disk is a clear error, and nothing half-written stays', {
  skip: !mountable && 'no mount namespaces here',
}, t => {
  const root = folder(t);
  const script = fileURLToPath(new URL('../support/full-disk.ts', import.meta.url));
  const run = spawnSync(
    'unshare',
    [
      ...enter,
      'sh',
      '-c',
      'mount -t tmpfs -o size=1m none "$1" && exec "$2" --import tsx "$3" "$1"',
      'sh',
      root,
      process.execPath,
      script,
    ],
    { encoding: 'utf8' },
  );
  assert.equal(run.status, 0, run.stderr);
  const said = JSON.parse(run.stdout) as Record<string, unknown>;
  assert.equal(said.code, 'dependency');
  assert.equal(said.retriable, true);
  assert.match(String(said.message), /^the disk of the artifacts store is full \(.*, after \d+ bytes\)$/);
  assert.deepEqual(said.temporary, []);
  assert.equal(said.blobs, 1);
  assert.equal(said.after, true, 'a small file still goes in');
});
