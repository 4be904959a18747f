/** The second thread of `noise-ahead.ts`: one order after the other, answered by the numbers themselves and not a copy of them. */
import { type MessagePort, workerData } from 'node:worker_threads';
import { SecureStream } from './noise.ts';
import { CLAIM, type NoiseOrder } from './noise-ahead.ts';

const port = workerData as MessagePort;
port.on('message', ({ id, key, n, std, claim, into }: NoiseOrder) => {
  if (Atomics.compareExchange(claim, 0, CLAIM.free, CLAIM.thread) !== CLAIM.free) return;
  const data = into ?? new Float32Array(n);
  new SecureStream(key).fillNormal(data, std);
  port.postMessage({ id, data }, [data.buffer as ArrayBuffer]);
  Atomics.store(claim, 0, CLAIM.done);
  Atomics.notify(claim, 0);
});
