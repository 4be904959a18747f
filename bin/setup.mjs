#!/usr/bin/env node
/**
 * Native set-up, run before `start` and `test`: idempotent, 0.1 s when there is nothing to do. Dependency install scripts
 * are not run (.npmrc), so the two packages that need a step of their own get it here:
 *   1. embedded PostgreSQL: its library symlinks, which npm cannot pack;
 *   2. @tensorflow/tfjs-node: the native TensorFlow library and its binding.
 * Plain JavaScript without dependencies, since it runs before anything else works. Progress goes to standard error.
 */
import { hydratePostgres } from './setup/postgres.mjs';
import { setUpTensorflow } from './setup/tensorflow.mjs';

const KNOWN = new Set(['--test', '--quiet', '--force']);
const options = process.argv.slice(2);
const unknown = options.find(option => !KNOWN.has(option));
if (unknown !== undefined) {
  process.stderr.write(`setup: unknown option ${unknown} (known: ${[...KNOWN].join(', ')})\n`);
  process.exit(2);
}
const say = options.includes('--quiet') ? () => undefined : line => process.stderr.write(`setup: ${line}\n`);

try {
  hydratePostgres({ say });
  setUpTensorflow({ say, force: options.includes('--force') });
} catch (error) {
  process.stderr.write(`setup: ${error instanceof Error ? error.message : String(error)}\n`);
  process.exit(1);
}
