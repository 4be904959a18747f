import { type CallOptions, type WorkerOptions, WorkerProcess } from './process.ts';
import type { JobName, Jobs, Scorer } from './types.ts';

export interface ComputeOptions extends WorkerOptions {
  /** Threads of native TensorFlow. */
  threads: number;
}

/** The compute worker, typed. A round takes a fresh one and closes it; the monitor keeps one that rests when idle. */
export class ComputeWorker implements Scorer {
  readonly #process: WorkerProcess;
  readonly threads: number;

  constructor(options: ComputeOptions) {
    this.#process = new WorkerProcess(options);
    this.threads = options.threads;
  }

  get pid(): number | undefined {
    return this.#process.pid;
  }

  call<J extends JobName>(job: J, input: Jobs[J]['input'], options: CallOptions = {}): Promise<Jobs[J]['result']> {
    return this.#process.call(job, input, options) as Promise<Jobs[J]['result']>;
  }

  perplexity: Scorer['perplexity'] = ({ model, adapter, logitBias }, texts, options) =>
    this.call('perplexity', { files: { model, adapter, logitBias }, texts, threads: this.threads }, options);

  classify: Scorer['classify'] = ({ model, adapter, logitBias, heads }, task, labels, texts, options) =>
    this.call('classify', { files: { model, adapter, logitBias, heads }, task, labels, texts }, options);

  close(): Promise<void> {
    return this.#process.close();
  }
}
