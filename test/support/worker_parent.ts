/** A parent to be killed: starts a worker on an endless job and reports its process id. */
import { fileURLToPath } from 'node:url';
import { WorkerProcess } from '../../src/learn/worker/process.ts';

const worker = new WorkerProcess({ entry: fileURLToPath(new URL('./worker_entry.ts', import.meta.url)) });
const { pid } = (await worker.call('whoami', null)) as { pid: number };
worker.call('forever', null).catch(() => undefined);
process.send!(pid);
