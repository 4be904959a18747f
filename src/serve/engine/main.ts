/**
 * The engine process: llama.cpp lives here, so that a native crash ends this process and not the daemon. It ends by itself when the
 * daemon is gone, and leaves the signals of the process group to the daemon, which drains first.
 */

import { toWire } from '../../base/wire-error.ts';
import { EngineHost } from './host.ts';
import type { EngineOptions, FromEngine, ToEngine } from './protocol.ts';
import { DEFAULT_ENGINE_OPTIONS } from './protocol.ts';

const send = (message: FromEngine): void => {
  if (process.connected) process.send!(message);
};

if (process.send === undefined) {
  process.stderr.write('The engine is a child process of the daemon and is not started by hand.\n');
  process.exit(2);
}

const options: EngineOptions = { ...DEFAULT_ENGINE_OPTIONS, ...JSON.parse(process.env.LEARND_ENGINE_OPTIONS ?? '{}') };
const host = new EngineHost(options);
const running = new Map<number, AbortController>();

process.on('disconnect', () => process.exit(0));
process.on('SIGINT', () => undefined);
process.on('SIGTERM', () => undefined);

process.on('message', (message: ToEngine) => {
  if ('cancel' in message) {
    running.get(message.cancel)?.abort();
    return;
  }
  const { id, method, request } = message;
  const abort = new AbortController();
  running.set(id, abort);
  host
    .handle(method, request, abort.signal, delta => send({ id, delta }))
    .then(
      result => send({ id, result }),
      error => send({ id, error: toWire(error) }),
    )
    .finally(() => running.delete(id));
});

send({ ready: true });
