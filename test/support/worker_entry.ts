/** A compute worker whose jobs only behave: well, slowly, badly. */
import { getPriority } from 'node:os';
import { invalid } from '../../src/base/errors.ts';
import { type JobContext, serveJobs } from '../../src/learn/worker/serve.ts';

const job =
  <T>(run: (input: T, context: JobContext) => Promise<unknown>) =>
  async () =>
    run;

serveJobs({
  echo: job(async input => input),
  whoami: job(async () => ({ pid: process.pid, priority: getPriority() })),
  count: job(async (total: number, context) => {
    for (let done = 1; done <= total; done++) {
      await context.breathe();
      context.progress({ stage: 'count', done, total });
    }
    return total;
  }),
  /** Works in small steps until it is told to stop. */
  forever: job(async (_input, context) => {
    for (;;) await context.breathe();
  }),
  /** Never looks up: as a native call that hangs. */
  deaf: job(async () => {
    for (;;) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 50);
  }),
  refuse: job(async () => {
    throw invalid('field', 'the input is wrong');
  }),
  crash: job(async () => {
    process.stderr.write('native code said goodbye\n');
    process.kill(process.pid, 'SIGSEGV');
    await new Promise(() => undefined);
  }),
});
