import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { fileURLToPath } from 'node:url';

const bin = fileURLToPath(new URL('../../bin', import.meta.url));

function setUp(script: string, args: string[], env: NodeJS.ProcessEnv = process.env) {
  const started = performance.now();
  const { status, stderr } = spawnSync(process.execPath, [script, ...args], { encoding: 'utf8', env });
  return { status, stderr, milliseconds: performance.now() - started };
}

test('a set-up that is done says nothing and is quick', () => {
  const again = setUp(join(bin, 'setup.mjs'), []);
  assert.equal(again.status, 0, again.stderr);
  assert.equal(again.stderr, '');
  // The fastest of several: the others measure who else is busy.
  let fastest = again.milliseconds;
  for (let n = 0; n < 5 && fastest >= 2000; n++)
    fastest = Math.min(fastest, setUp(join(bin, 'setup.mjs'), []).milliseconds);
  assert.ok(fastest < 2000, `${fastest} ms (0.1 s on a machine at rest)`);
});

test('an unknown option is refused', () => {
  const { status, stderr } = setUp(join(bin, 'setup.mjs'), ['--frobnicate']);
  assert.equal(status, 2);
  assert.match(stderr, /unknown option --frobnicate/);
});

test('where nothing works, the error lists what is missing and how to mend it', () => {
  const folder = mkdtempSync(join(tmpdir(), 'learnd-setup-'));
  try {
    cpSync(bin, join(folder, 'bin'), { recursive: true });
    const absent = setUp(join(folder, 'bin', 'setup.mjs'), []);
    assert.equal(absent.status, 1);
    assert.match(absent.stderr, /@tensorflow\/tfjs-node is not installed: run npm install/);

    const root = join(folder, 'node_modules', '@tensorflow', 'tfjs-node');
    mkdirSync(join(root, 'scripts'), { recursive: true });
    writeFileSync(join(root, 'package.json'), JSON.stringify({ name: '@tensorflow/tfjs-node', version: '4.22.0' }));
    writeFileSync(join(root, 'scripts', 'install.js'), "throw new Error('no network here')");
    const env = { PATH: join(folder, 'nothing'), HOME: folder, XDG_CACHE_HOME: join(folder, 'cache') };
    const { status, stderr } = setUp(join(folder, 'bin', 'setup.mjs'), [], env);
    assert.equal(status, 1);
    if (process.platform === 'linux' && process.arch === 'x64') {
      assert.match(stderr, /no C\+\+ compiler/);
      assert.match(stderr, /no Python 3 with pip/);
    }
    assert.match(stderr, /no network here/);
    assert.match(stderr, /npm run setup/);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
