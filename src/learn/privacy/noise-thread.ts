/** The second thread of `noise-ahead.ts`: one order after the other, into the memory that both threads see. */
import { type MessagePort, workerData } from 'node:worker_threads';
import { SecureStream } from './noise.ts';
import { CLAIM, type NoiseOrder } from './noise-ahead.ts';

const port = workerData as MessagePort;
port.on('message', ({ key, std, claim, into }: NoiseOrder) => {
  if (Atomics.compareExchange(claim, 0, CLAIM.free, CLAIM.thread) !== CLAIM.free) return;
  new SecureStream(key).fillNormal(into, std);
  Atomics.store(claim, 0, CLAIM.done);
  Atomics.notify(claim, 0);
});
