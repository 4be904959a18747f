/**
 * `npm run soak [-- STEPS]`: private training steps, 1,000 of the 30.7M-parameter model in full and of its LoRA, watched for tensors
 * left behind and memory that grows after the first tenth. Prints a line each tenth of the way and exits with 1 when either is found.
 */

import { tensorflow } from '../src/learn/tensor/backend.ts';
import { SMALL } from './dp-step/setting.ts';
import { contestant } from './dp-step/step.ts';

/** Growth of the resident size, from a tenth of the way to the end, that counts as none: what an allocator keeps. */
const TOLERATED_MB = 64;

const steps = Number(process.argv[2] ?? 1000);
if (!Number.isInteger(steps) || steps < 50) {
  process.stderr.write('soak: the number of steps must be a whole number of at least 50: the first tenth is warm-up\n');
  process.exit(2);
}
const tf = tensorflow();
const megabytes = () => process.memoryUsage.rss() / 2 ** 20;
/** Short sequences: what could leak is made in each step, whatever its size. */
const model = { ...SMALL, batch: 4, length: 32 };
for (const what of ['full', 'lora'] as const) {
  const step = contestant({ model, what, how: 'dp', rank: 8, secure: false, threads: 2 });
  let first: { tensors: number; rss: number } | undefined;
  const started = performance.now();
  for (let i = 1; i <= steps; i++) {
    await step();
    if (i % Math.floor(steps / 10) !== 0) continue;
    const now = { tensors: tf.memory().numTensors, rss: megabytes() };
    first ??= now;
    const seconds = ((performance.now() - started) / 1000).toFixed(0);
    process.stdout.write(
      `${what}: step ${i}, ${now.tensors} tensors, ${now.rss.toFixed(0)} MB resident, ${seconds} s\n`,
    );
    if (now.tensors !== first.tensors || now.rss > first.rss + TOLERATED_MB) {
      process.stderr.write(`soak: ${what} grew from ${first.tensors} tensors and ${first.rss.toFixed(0)} MB\n`);
      process.exitCode = 1;
    }
  }
}
