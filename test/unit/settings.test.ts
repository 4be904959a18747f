import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import test from 'node:test';
import { LearndError } from '../../src/base/errors.ts';
import { environmentName, loadSettings, settingPaths } from '../../src/base/settings.ts';

const folder = mkdtempSync(join(tmpdir(), 'learnd-settings-'));
test.after(() => rmSync(folder, { recursive: true, force: true }));
let files = 0;

function file(text: string): string {
  const path = join(folder, String(files++), 'learnd.yaml');
  mkdirSync(dirname(path));
  writeFileSync(path, text);
  return path;
}
const load = (text: string, env: NodeJS.ProcessEnv = {}) => loadSettings({ file: file(text), env });
const refusal = (work: () => unknown): LearndError => {
  try {
    work();
  } catch (error) {
    assert.ok(error instanceof LearndError);
    return error;
  }
  return assert.fail('nothing was refused');
};

test('defaults, then file, then environment, then overrides', () => {
  assert.equal(loadSettings({ env: {}, cwd: tmpdir() }).port, 8790);
  const path = file('port: 1\nkafka: { group_id: a }\n');
  assert.equal(loadSettings({ file: path, env: {} }).port, 1);
  assert.equal(loadSettings({ file: path, env: { LEARND_PORT: '2' } }).port, 2);
  assert.equal(loadSettings({ file: path, env: { LEARND_PORT: '2' }, overrides: { port: 3 } }).port, 3);
  const settings = loadSettings({ file: path, env: { KAFKA_BROKERS: 'a:1, b:2', DATABASE_URL: 'postgres://x' } });
  assert.deepEqual(settings.kafka.brokers, ['a:1', 'b:2']);
  assert.equal(settings.kafka.group_id, 'a');
  assert.equal(settings.database_url, 'postgres://x');
});

test('every leaf has an environment variable of its own', () => {
  assert.equal(new Set(settingPaths.map(environmentName)).size, settingPaths.length);
  const tasks = JSON.stringify([{ name: 't', labels: ['a', 'b'] }]);
  assert.equal(loadSettings({ env: { LEARND_TASKS: tasks }, cwd: tmpdir() }).tasks[0]?.name, 't');
});

test('an unknown key, a wrong type and broken YAML name the line and the key', () => {
  assert.match(refusal(() => load('name: a\nserve:\n  quee: 3\n')).message, /:3: unknown setting "serve\.quee"/);
  assert.match(refusal(() => load('name: a\nport: many\n')).message, /:2: port: /);
  assert.match(refusal(() => load('name: [\n')).message, /learnd\.yaml:\d+: /);
  assert.match(refusal(() => load('- a\n')).message, /must be a mapping/);
  assert.match(refusal(() => loadSettings({ file: '/nowhere/learnd.yaml', env: {} })).message, /cannot read/);
  assert.match(refusal(() => load('tasks: [{name: a, labels: [x, x]}]\n')).message, /declares a label twice/);
  assert.match(refusal(() => load('', { LEARND_TASKS: '{' })).message, /LEARND_TASKS is not JSON/);
});

test('settings are frozen, and the hash leaves secrets out', () => {
  const a = load('database_url: postgres://one\n');
  const b = load('database_url: postgres://two\n');
  assert.equal(a.hash, b.hash);
  assert.notEqual(a.hash, load('port: 7\n').hash);
  assert.throws(() => {
    (a.serve as { queue: number }).queue = 1;
  });
});

test('docs/settings.md is what the schema says', () => {
  const { status, stderr } = spawnSync(process.execPath, ['bin/settings-doc.mjs', '--check'], { encoding: 'utf8' });
  assert.equal(status, 0, stderr);
});
