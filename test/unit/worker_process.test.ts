import assert from 'node:assert/strict';
import { fork, spawnSync } from 'node:child_process';
import test from 'node:test';
import { fileURLToPath } from 'node:url';
import { sleep } from '../../src/base/clock.ts';
import { LearndError } from '../../src/base/errors.ts';
import { WorkerProcess } from '../../src/learn/worker/process.ts';
import type { Progress } from '../../src/learn/worker/wire.ts';

const entry = fileURLToPath(new URL('../support/worker_entry.ts', import.meta.url));
const open = (options = {}) => new WorkerProcess({ entry, ...options });
const alive = (pid: number): boolean => {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
};
const gone = async (pid: number): Promise<void> => {
  for (let i = 0; i < 600 && alive(pid); i++) await new Promise(resolve => setTimeout(resolve, 50));
  assert.equal(alive(pid), false, `process ${pid} is still there`);
};

test('calls: typed arrays cross, order is kept, errors keep their code and field', async t => {
  const worker = open();
  t.after(() => worker.close());
  assert.deepEqual(await worker.call('echo', { a: new Float32Array([1, 2]), b: 'x' }), {
    a: new Float32Array([1, 2]),
    b: 'x',
  });
  const seen: Progress[] = [];
  const [total, echoed] = await Promise.all([
    worker.call('count', 3, { onProgress: progress => seen.push(progress) }),
    worker.call('echo', 'second'),
  ]);
  assert.deepEqual([total, echoed, seen.map(p => p.done)], [3, 'second', [1, 2, 3]]);
  await assert.rejects(worker.call('refuse', null), { code: 'invalid', field: 'field', retriable: false });
  await assert.rejects(worker.call('nothing', null), { code: 'internal' });
  const who = (await worker.call('whoami', null)) as { pid: number; priority: number };
  assert.equal(who.priority, 19);
  assert.equal(who.pid, worker.pid);
});

test('cancel: a job that looks up ends by itself, one that does not is ended with its process', async t => {
  const worker = open({ graceMs: 300 });
  t.after(() => worker.close());
  const first = (await worker.call('whoami', null)) as { pid: number };
  const stop = new AbortController();
  setTimeout(() => stop.abort(), 50);
  await assert.rejects(worker.call('forever', null, { signal: stop.signal }), { code: 'canceled' });
  assert.equal(((await worker.call('whoami', null)) as { pid: number }).pid, first.pid);
  const again = new AbortController();
  // The job must have begun: one that has not is only taken back.
  setTimeout(() => again.abort(), 500);
  await assert.rejects(worker.call('deaf', null, { signal: again.signal }), { code: 'canceled' });
  assert.notEqual(((await worker.call('whoami', null)) as { pid: number }).pid, first.pid);
  await assert.rejects(worker.call('echo', 1, { signal: AbortSignal.abort() }), { code: 'canceled' });
});

test('a crash and a time limit are retriable, quote the child, and the next call has a new process', async t => {
  const worker = open();
  t.after(() => worker.close());
  const behind = assert.rejects;
  const crash = worker.call('crash', null);
  const queued = worker.call('echo', 1);
  await Promise.all([
    behind(crash, (error: LearndError) => {
      assert.ok(error instanceof LearndError);
      assert.equal(error.retriable, true);
      assert.match(error.message, /crash: SIGSEGV/);
      assert.match(String(error.data?.stderr), /native code said goodbye/);
      return true;
    }),
    behind(queued, { retriable: true }),
  ]);
  await assert.rejects(worker.call('deaf', null, { timeoutMs: 200 }), /took longer/);
  assert.equal(await worker.call('echo', 'again'), 'again');
});

test('an idle worker ends and comes back; a closed one refuses', async () => {
  const worker = open({ idleMs: 100 });
  const { pid } = (await worker.call('whoami', null)) as { pid: number };
  await gone(pid);
  assert.equal(worker.pid, undefined);
  const next = (await worker.call('whoami', null)) as { pid: number };
  assert.notEqual(next.pid, pid);
  await worker.close();
  await gone(next.pid);
  await assert.rejects(worker.call('echo', 1), { code: 'not_ready' });
});

const canWatch = spawnSync('setpriv', ['--pdeathsig', 'KILL', '--', 'true']).status === 0;

for (const job of ['forever', 'deaf'] as const) {
  const deaf = job === 'deaf';
  test(`a worker ends when its parent is killed, ${deaf ? 'in a native step too' : 'between two steps'}`, {
    skip: deaf && !canWatch && process.env.CI !== 'true' ? 'setpriv is missing: a native step is waited for' : false,
  }, async () => {
    const parent = fork(fileURLToPath(new URL('../support/worker_parent.ts', import.meta.url)), [job], {
      execArgv: ['--import', import.meta.resolve('tsx')],
    });
    const pid = await new Promise<number>(resolve => parent.once('message', message => resolve(message as number)));
    assert.ok(alive(pid));
    // The call reaches the job before its parent goes.
    await sleep(300);
    parent.kill('SIGKILL');
    await gone(pid);
  });
}
