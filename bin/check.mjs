#!/usr/bin/env node
// The checks, in the order in which they are cheapest: format and lint, types, architecture.
import { spawnSync } from 'node:child_process';

const steps = [
  ['lint, format, import order', 'npx', ['--no-install', 'biome', 'check', '--error-on-warnings', '.']],
  ['types', 'npx', ['--no-install', 'tsc', '--pretty', 'false']],
  ['architecture', process.execPath, ['--import', 'tsx', '--test', 'test/architecture.test.ts']],
];
for (const [name, command, args] of steps) {
  const started = Date.now();
  const { status, stdout, stderr } = spawnSync(command, args, { encoding: 'utf8', maxBuffer: 1 << 26 });
  if (status !== 0) {
    process.stdout.write(`${stdout}${stderr}`);
    process.stderr.write(`check: ${name} failed\n`);
    process.exit(1);
  }
  process.stderr.write(`check: ${name} (${((Date.now() - started) / 1000).toFixed(1)} s)\n`);
}
