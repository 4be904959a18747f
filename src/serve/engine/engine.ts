/**
 * The engine process as seen by the daemon: starts it, calls it, starts it again when it dies. A call never outlives the process it
 * was given to. What should be loaded is loaded again by `onStart` (the version table) before calls are let through.
 */

import { type ChildProcess, fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { sleep } from '../../base/clock.ts';
import { dieWithParent } from '../../base/die-with-parent.ts';
import { LearndError } from '../../base/errors.ts';
import { type Log, silentLog } from '../../base/log.ts';
import { fromWire } from '../../base/wire-error.ts';
import type { EngineCalls, EngineMethod, EngineOptions, FromEngine, ToEngine } from './protocol.ts';
import { DEFAULT_ENGINE_OPTIONS } from './protocol.ts';

export interface EngineProcessOptions extends Partial<EngineOptions> {
  log?: Log;
  /** A process that answers no health question for so long is ended and started again. Milliseconds. */
  hungAfterMs?: number;
  /** Longest wait of a call for a process that is starting again. Milliseconds. */
  patienceMs?: number;
}

export interface CallOptions {
  /** Cancels the call in the engine (within one token); the call still settles by the engine's answer. */
  signal?: AbortSignal | undefined;
  onDelta?: (delta: string) => void;
  /** Goes through before `onStart` is done: loading itself. */
  early?: boolean;
}

interface Pending {
  readonly resolve: (result: unknown) => void;
  readonly reject: (error: LearndError) => void;
  readonly onDelta: ((delta: string) => void) | undefined;
}

interface Running {
  readonly child: ChildProcess;
  readonly pending: Map<number, Pending>;
  up: boolean;
}

const ENTRY = fileURLToPath(new URL('./main.ts', import.meta.url));
const FIRST_BACKOFF_MS = 100;
const MOST_BACKOFF_MS = 10_000;
/** A process that lived so long counts as healthy: the next restart is quick again. */
const HEALTHY_AFTER_MS = 30_000;

export class EngineProcess {
  readonly #options: Required<Omit<EngineProcessOptions, keyof EngineOptions>> & EngineOptions;
  readonly #stopping = new AbortController();
  readonly #waiters = new Set<() => void>();
  #running: Running | undefined;
  #life: Promise<void> | undefined;
  #next = 1;
  #restarts = 0;
  #lastFailure: string | undefined;
  /** Loads again what should be loaded; called after every start of the process, before other calls are let through. */
  onStart: () => Promise<void> = async () => undefined;

  constructor(options: EngineProcessOptions = {}) {
    this.#options = { ...DEFAULT_ENGINE_OPTIONS, log: silentLog, hungAfterMs: 60_000, patienceMs: 15_000, ...options };
  }

  get pid(): number | undefined {
    return this.#running?.child.pid;
  }

  /** The process is there and what should be loaded is. */
  get up(): boolean {
    return this.#running?.up ?? false;
  }

  get restarts(): number {
    return this.#restarts;
  }

  /** Why it is not up, in one sentence. */
  get trouble(): string | undefined {
    return this.up ? undefined : (this.#lastFailure ?? 'the language model engine is starting');
  }

  /** Resolves once the first process is up. Throws 'dependency' when it cannot start at all. */
  async start(): Promise<void> {
    if (this.#life !== undefined) return;
    this.#life = this.#keepAlive();
    await this.#whenUp(60_000);
  }

  async call<M extends EngineMethod>(
    method: M,
    request: EngineCalls[M]['request'],
    options: CallOptions = {},
  ): Promise<EngineCalls[M]['result']> {
    if (options.signal?.aborted) throw new LearndError('canceled', 'cancelled');
    if (options.early !== true) await this.#whenUp(this.#options.patienceMs, options.signal);
    const running = this.#running;
    if (running === undefined) throw new LearndError('not_ready', this.trouble ?? 'the engine is not running');
    return (await this.#send(running, method, request, options)) as EngineCalls[M]['result'];
  }

  /** Ends the process; calls under way are rejected. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    const child = this.#running?.child;
    if (child?.connected) child.disconnect(); // it ends by itself; if it hangs in native code it is killed
    const killer = setTimeout(() => child?.kill('SIGKILL'), 2_000);
    await this.#life;
    clearTimeout(killer);
  }

  async #keepAlive(): Promise<void> {
    let wait = FIRST_BACKOFF_MS;
    while (!this.#stopping.signal.aborted) {
      const began = performance.now();
      this.#lastFailure = await this.#oneLife();
      if (this.#stopping.signal.aborted) break;
      this.#restarts++;
      this.#options.log.error('the engine process ended; starting it again', {
        reason: this.#lastFailure,
        in_ms: wait,
      });
      if (performance.now() - began > HEALTHY_AFTER_MS) wait = FIRST_BACKOFF_MS;
      await sleep(wait, this.#stopping.signal);
      wait = Math.min(MOST_BACKOFF_MS, wait * 2);
    }
    for (const wake of this.#waiters) wake();
  }

  /** Runs one process from start to end; resolves with why it ended. */
  #oneLife(): Promise<string> {
    const { threads, sequences, contextSize } = this.#options;
    const child = fork(ENTRY, [], {
      ...dieWithParent(['--import', import.meta.resolve('tsx')]),
      serialization: 'advanced',
      stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
      env: { ...process.env, LEARND_ENGINE_OPTIONS: JSON.stringify({ threads, sequences, contextSize }) },
    });
    const running: Running = { child, pending: new Map(), up: false };
    this.#running = running;
    let tail = '';
    const keepTail = (chunk: Buffer) => {
      tail = (tail + chunk.toString('utf8')).slice(-2000);
    };
    child.stdout?.on('data', keepTail);
    child.stderr?.on('data', keepTail);
    child.on('message', (message: FromEngine) => this.#receive(running, message));
    const watch = this.#watch(running);
    return new Promise(resolve => {
      let ended = false;
      const end = (why: string) => {
        if (ended) return;
        ended = true;
        clearInterval(watch);
        running.up = false;
        if (this.#running === running) this.#running = undefined;
        const lost = new LearndError('dependency', `the language model engine ended while answering: ${why}`, {
          hint: 'It is started again by itself; ask again.',
          retriable: true,
        });
        for (const pending of running.pending.values()) pending.reject(lost);
        running.pending.clear();
        resolve(why);
      };
      child.on('error', error => end(error.message));
      child.on('exit', (code, signal) => {
        const said = tail.trim().split('\n').slice(-3).join(' ');
        end(`${signal ?? `exit code ${code}`}${said === '' ? '' : `: ${said}`}`);
      });
    });
  }

  #receive(running: Running, message: FromEngine): void {
    if ('ready' in message) {
      void this.#begin(running);
      return;
    }
    const pending = running.pending.get(message.id);
    if (pending === undefined) return;
    if ('delta' in message) {
      pending.onDelta?.(message.delta);
      return;
    }
    running.pending.delete(message.id);
    if ('error' in message) pending.reject(fromWire(message.error));
    else pending.resolve(message.result);
  }

  async #begin(running: Running): Promise<void> {
    try {
      await this.onStart();
    } catch (error) {
      this.#options.log.error('loading after a start failed', { error });
    }
    if (this.#running !== running) return;
    running.up = true;
    for (const wake of this.#waiters) wake();
  }

  #watch(running: Running): NodeJS.Timeout {
    let answered = performance.now();
    const watch = setInterval(() => {
      if (performance.now() - answered > this.#options.hungAfterMs) {
        this.#options.log.error('the engine process hangs; ending it', { pid: running.child.pid });
        running.child.kill('SIGKILL');
        return;
      }
      this.#send(running, 'health', null, {}).then(
        () => {
          answered = performance.now();
        },
        () => undefined, // it died: `exit` reports it
      );
    }, this.#options.hungAfterMs / 12);
    watch.unref();
    return watch;
  }

  #send(running: Running, method: EngineMethod, request: unknown, options: CallOptions): Promise<unknown> {
    return new Promise((resolve, reject) => {
      const id = this.#next++;
      const cancel = () => this.#post(running, { cancel: id });
      const settle = () => options.signal?.removeEventListener('abort', cancel);
      running.pending.set(id, {
        resolve: result => {
          settle();
          resolve(result);
        },
        reject: error => {
          settle();
          reject(error);
        },
        onDelta: options.onDelta,
      });
      options.signal?.addEventListener('abort', cancel, { once: true });
      this.#post(running, { id, method, request });
    });
  }

  #post(running: Running, message: ToEngine): void {
    // A send to a process that is just ending fails; its exit rejects everything that was pending.
    if (running.child.connected) running.child.send(message, () => undefined);
  }

  async #whenUp(patienceMs: number, signal?: AbortSignal): Promise<void> {
    if (this.up) return;
    if (this.#stopping.signal.aborted || this.#life === undefined)
      throw new LearndError('not_ready', 'the engine is stopped');
    let wake: () => void = () => undefined;
    const woken = new Promise<void>(resolve => {
      wake = resolve;
    });
    const timer = setTimeout(wake, patienceMs);
    this.#waiters.add(wake);
    signal?.addEventListener('abort', wake, { once: true });
    await woken;
    clearTimeout(timer);
    this.#waiters.delete(wake);
    signal?.removeEventListener('abort', wake);
    if (signal?.aborted) throw new LearndError('canceled', 'cancelled');
    if (!this.up) throw new LearndError('not_ready', this.trouble ?? 'the engine is stopped', { retriable: true });
  }
}
