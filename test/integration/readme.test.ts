import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import test from 'node:test';
import { sleep } from '../../src/base/clock.ts';
import { testFolder } from '../support/daemon.ts';

/** The README, word for word, from a clean clone: the two commands (the tests themselves excepted), then the first ten things. */
const ROOT = resolve(import.meta.dirname, '../..');
const readme = readFileSync(join(ROOT, 'README.md'), 'utf8');

const blocks = (from: string, to: string): string[] => {
  const part = readme.slice(readme.indexOf(from), readme.indexOf(to));
  return [...part.matchAll(/```sh\n([\s\S]*?)```/g)].map(match => match[1]!.trim());
};

/** What each command must print for the claim beside it to be true. */
const SAYS: readonly RegExp[] = [
  /\w.*\(learnd@\d+, resp_/s,
  /320 events/,
  /\d+ events/,
  /champion {2}learnd@1[\s\S]*feedback\.total/,
  /"model":"learnd@\d+","results":\[\{"label":"\w+","scores":/,
  /valid|no mistakes|ok/i,
  /outcome|no decisions yet/,
  /learnd@1/,
  /"user_hash"/,
  /epsilon 1\.9\d+/,
];

test('the README from a clean clone', { timeout: 600_000 }, async t => {
  const clone = join(testFolder(t, 'readme'), 'learnd');
  execFileSync('git', ['clone', '--quiet', '--no-hardlinks', ROOT, clone]);
  const [first, ...rest] = blocks('## Two commands', '## The first ten things')[0]!.split('\n');
  assert.equal(first, 'npm install && npm start');
  assert.deepEqual(rest, ['npm test']);
  const daemon = spawn('bash', ['-c', first!], { cwd: clone, stdio: ['ignore', 'pipe', 'pipe'], detached: true });
  let log = '';
  daemon.stdout.on('data', chunk => (log += chunk));
  daemon.stderr.on('data', chunk => (log += chunk));
  const ended = new Promise<void>(done => daemon.on('exit', () => done()));
  t.after(async () => {
    process.kill(-daemon.pid!, 'SIGTERM');
    await Promise.race([ended, sleep(30_000)]);
  });
  for (let waited = 0; !log.includes('try next:'); waited += 250) {
    assert.ok(waited < 300_000 && daemon.exitCode === null, `npm start did not come up:\n${log}`);
    await sleep(250);
  }
  assert.match(log, /admin key \(shown once/);
  const commands = blocks('## The first ten things', '## Beyond one machine');
  assert.equal(commands.length, SAYS.length);
  for (const [i, command] of commands.entries()) {
    const said = execFileSync('bash', ['-ec', command], { cwd: clone, encoding: 'utf8', timeout: 120_000 });
    assert.match(said, SAYS[i]!, command);
  }
});
