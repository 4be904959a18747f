/** A parent to be killed: starts a worker on an endless job (`forever`, or the one named) and reports its process id. */
import { fileURLToPath } from 'node:url';
import { WorkerProcess } from '../../src/learn/worker/process.ts';

const worker = new WorkerProcess({ entry: fileURLToPath(new URL('./worker_entry.ts', import.meta.url)) });
const { pid } = (await worker.call('whoami', null)) as { pid: number };
worker.call(process.argv[2] ?? 'forever', null).catch(() => undefined);
process.send!(pid);
