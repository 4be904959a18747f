import { type ChildProcess, fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { dieWithParent } from '../../base/die-with-parent.ts';
import { LearndError } from '../../base/errors.ts';
import { fromWire } from '../../base/wire-error.ts';
import type { FromWorker, Progress, ToWorker } from './wire.ts';

export interface WorkerOptions {
  /** Entry file of the child; default: the compute worker's own. */
  entry?: string;
  /** Environment of the child; default: the parent's. */
  env?: NodeJS.ProcessEnv;
  /** The child ends after so long without a call, and the next call starts another; 0: it stays. Milliseconds. */
  idleMs?: number;
  /** A cancelled job that has not looked up after so long is ended with its process. Milliseconds. */
  graceMs?: number;
  /** Called with the process id whenever a child is started. */
  onStart?: (pid: number) => void;
}

export interface CallOptions {
  signal?: AbortSignal | undefined;
  /** The process is ended when the job takes longer. Milliseconds. */
  timeoutMs?: number | undefined;
  onProgress?: ((progress: Progress) => void) | undefined;
}

interface Pending {
  readonly job: string;
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: unknown) => void;
  readonly onProgress: ((progress: Progress) => void) | undefined;
  readonly settled: () => void;
}

const ENTRY = fileURLToPath(new URL('./main.ts', import.meta.url));
/** As much of the child's standard error as a crash report quotes. */
const TAIL = 2000;

/** One process and the calls it was given: a call never outlives, or is answered by another than, its own process. */
interface Running {
  readonly process: ChildProcess;
  readonly pending: Map<number, Pending>;
  /** Why it was ended from here, if it was. */
  why: string | undefined;
}

/**
 * One child process and its calls. It starts with the first call. A crash rejects what was under way with a retriable
 * error and the next call starts a new child; nothing of the old one is kept.
 */
export class WorkerProcess {
  readonly #options: WorkerOptions;
  #running: Running | undefined;
  readonly #gone = new Set<Promise<void>>();
  #next = 1;
  #idle: NodeJS.Timeout | undefined;
  #closed = false;

  constructor(options: WorkerOptions = {}) {
    this.#options = options;
  }

  /** Process id of the running child. */
  get pid(): number | undefined {
    return this.#running?.process.pid;
  }

  /** @throws LearndError of the job; 'dependency' (retriable) when the process ended; 'canceled'. */
  call(job: string, input: unknown, options: CallOptions = {}): Promise<unknown> {
    if (this.#closed) return Promise.reject(new LearndError('not_ready', 'the compute worker is closed'));
    const { signal, timeoutMs } = options;
    if (signal?.aborted) return Promise.reject(canceled(job));
    clearTimeout(this.#idle);
    const running = this.#running ?? this.#start();
    const id = this.#next++;
    return new Promise((resolve, reject) => {
      const timers: NodeJS.Timeout[] = [];
      const killAfter = (ms: number, why: string): void => {
        timers.push(setTimeout(() => this.#kill(running, why), ms));
      };
      const onAbort = (): void => {
        send(running.process, { cancel: id });
        killAfter(this.#options.graceMs ?? 10_000, `${job} did not stop when canceled`);
      };
      if (timeoutMs !== undefined) killAfter(timeoutMs, `${job} took longer than ${Math.round(timeoutMs / 1000)} s`);
      signal?.addEventListener('abort', onAbort, { once: true });
      running.pending.set(id, {
        job,
        resolve,
        reject: error => reject(signal?.aborted ? canceled(job, error) : error),
        onProgress: options.onProgress,
        settled: () => {
          for (const timer of timers) clearTimeout(timer);
          signal?.removeEventListener('abort', onAbort);
          running.pending.delete(id);
          this.#rest(running);
        },
      });
      send(running.process, { id, job, input });
    });
  }

  /** Ends the child; calls under way are rejected. Resolves when the process is gone. */
  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#idle);
    if (this.#running) this.#kill(this.#running, 'the compute worker was closed');
    await Promise.all(this.#gone);
  }

  #start(): Running {
    // The loader by its full address: the daemon may run in any working directory.
    const child = fork(this.#options.entry ?? ENTRY, [], {
      ...dieWithParent(['--import', import.meta.resolve('tsx')]),
      serialization: 'advanced',
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
      ...(this.#options.env === undefined ? {} : { env: this.#options.env }),
    });
    const running: Running = { process: child, pending: new Map(), why: undefined };
    this.#running = running;
    let tail = '';
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      tail = (tail + text).slice(-TAIL);
    });
    const gone = new Promise<void>(resolve => {
      const end = (how: string): void => {
        if (this.#running === running) this.#running = undefined;
        for (const pending of [...running.pending.values()]) {
          pending.settled();
          pending.reject(
            new LearndError('dependency', `the compute worker ended during ${pending.job}: ${running.why ?? how}`, {
              retriable: true,
              ...(tail === '' ? {} : { data: { stderr: tail } }),
            }),
          );
        }
        this.#gone.delete(gone);
        resolve();
      };
      // 'close' and not 'exit': the pipes are drained by then, so the report can quote them.
      child.once('close', (code, signal) => end(signal ?? `exit status ${code}`));
      child.on('error', error => {
        if (child.pid === undefined) end(error.message);
      });
    });
    this.#gone.add(gone);
    child.on('message', (message: FromWorker) => this.#receive(running, message));
    if (child.pid !== undefined) this.#options.onStart?.(child.pid);
    return running;
  }

  #receive(running: Running, message: FromWorker): void {
    if ('ready' in message) return;
    const pending = running.pending.get(message.id);
    if (!pending) return;
    if ('progress' in message) {
      pending.onProgress?.(message.progress);
      return;
    }
    pending.settled();
    if ('error' in message) pending.reject(fromWire(message.error));
    else pending.resolve(message.result);
  }

  #rest(running: Running): void {
    const idle = this.#options.idleMs ?? 0;
    if (idle === 0 || running !== this.#running || running.pending.size > 0 || this.#closed) return;
    clearTimeout(this.#idle);
    this.#idle = setTimeout(() => {
      if (running.pending.size === 0) this.#kill(running, 'idle');
    }, idle);
    this.#idle.unref();
  }

  #kill(running: Running, why: string): void {
    running.why ??= why;
    // The next call must not be given to a process that is about to go.
    if (this.#running === running) this.#running = undefined;
    running.process.kill('SIGKILL');
  }
}

/** A failed write is reported by the process's end, which settles every call. */
function send(child: ChildProcess, message: ToWorker): void {
  if (child.connected) child.send(message, () => undefined);
}

const canceled = (job: string, cause?: unknown): LearndError =>
  new LearndError('canceled', `the job ${job} was canceled`, { cause });
