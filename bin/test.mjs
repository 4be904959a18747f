#!/usr/bin/env node
/**
 * Runs the tests: `npm test` all of them, `npm test -- unit` one folder, `npm test -- adwin` the files whose path holds the word.
 * `node --test FOLDER` differs between Node 20, 22 and 24, so files are passed. Two files run at a time: some hold a model of 500 MB.
 */
import { spawn } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';

const words = process.argv.slice(2);
const files = readdirSync('test', { recursive: true, encoding: 'utf8' })
  .filter(file => file.endsWith('.test.ts'))
  .map(file => join('test', file))
  .filter(file => words.length === 0 || words.some(word => file.includes(word)))
  .sort();
if (files.length === 0) {
  process.stderr.write(`test: no test file matches ${words.join(' ')}\n`);
  process.exit(1);
}
const child = spawn(
  process.execPath,
  ['--import', 'tsx', '--test', '--test-concurrency=2', '--test-reporter=spec', ...files],
  { stdio: 'inherit', env: { ...process.env, LEARND_LOG: process.env.LEARND_LOG ?? 'warn' } },
);
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => child.kill(signal));
child.on('exit', (code, signal) => process.exit(signal ? 1 : (code ?? 1)));
