import { constants, getPriority, setPriority } from 'node:os';
import { LearndError } from '../../base/errors.ts';
import { toWire } from '../../base/wire-error.ts';
import type { FromWorker, Progress, ToWorker } from './wire.ts';

/** What a job may do while it runs. */
export interface JobContext {
  readonly signal: AbortSignal;
  progress(progress: Progress): void;
  /**
   * Gives the event loop a turn, so that a cancellation or the parent's end is noticed between two native calls.
   * @throws LearndError('canceled')
   */
  breathe(): Promise<void>;
}

// biome-ignore lint/suspicious/noExplicitAny: each job states its own input; the client types the pair.
export type Job = (input: any, context: JobContext) => Promise<unknown>;

/** A job's code is loaded when it is first asked for: a scorer never loads the pruner. */
export type JobTable = Readonly<Record<string, () => Promise<Job>>>;

/**
 * Makes this process a compute worker: lowest priority, one job at a time in the order asked, gone when the parent is.
 * With a trainer at normal priority on the same two cores a llama.cpp context fell to 0.3 tokens/s; with the trainer at
 * priority 19 it lost nothing (design, section 6).
 */
export function serveJobs(jobs: JobTable): void {
  if (!process.send) throw new LearndError('invalid', 'a compute worker is started by learnd, not by hand');
  setPriority(constants.priority.PRIORITY_LOW);
  // A closed channel means that nobody waits for the answer any more.
  process.on('disconnect', () => process.exit(0));
  // A terminal's Ctrl-C and a service manager's stop reach every process of the group; the parent ends its workers itself, in order.
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => undefined);
  const send = (message: FromWorker): void => {
    if (process.connected) process.send!(message, undefined, {}, () => undefined);
  };
  const stops = new Map<number, AbortController>();
  let last: Promise<void> = Promise.resolve();

  const run = async (id: number, name: string, input: unknown): Promise<void> => {
    const stop = stops.get(id)!;
    const context: JobContext = {
      signal: stop.signal,
      progress: progress => send({ id, progress }),
      breathe: () =>
        new Promise((resolve, reject) =>
          setImmediate(() => (stop.signal.aborted ? reject(canceled(name)) : resolve())),
        ),
    };
    try {
      if (stop.signal.aborted) throw canceled(name);
      const load = jobs[name];
      if (!load) throw new LearndError('internal', `the compute worker has no job "${name}"`);
      const job = await load();
      send({ id, result: await job(input, context) });
    } catch (thrown) {
      send({ id, error: toWire(thrown) });
    } finally {
      stops.delete(id);
    }
  };

  process.on('message', (message: ToWorker) => {
    if ('cancel' in message) stops.get(message.cancel)?.abort();
    else {
      stops.set(message.id, new AbortController());
      last = last.then(() => run(message.id, message.job, message.input));
    }
  });
  send({ ready: true, priority: getPriority() });
}

const canceled = (name: string): LearndError => new LearndError('canceled', `the job ${name} was canceled`);
