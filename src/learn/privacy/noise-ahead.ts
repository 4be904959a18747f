/**
 * A step's noise made by a second thread, beside the passes that its sum comes from. Whoever asks for a part that is not there yet
 * makes it himself: the numbers follow from key, count and deviation alone, so the thread can only save time.
 */
import { MessageChannel, type MessagePort, receiveMessageOnPort, Worker } from 'node:worker_threads';
import { type Tensor, tensorflow } from '../tensor/backend.ts';
import { SecureStream } from './noise.ts';

/** One part of a step's noise: `n` numbers of deviation `std` from the stream of `key`. */
export interface NoisePart {
  readonly key: Uint8Array;
  readonly n: number;
  readonly std: number;
}

/** What the thread is sent. Who makes the part is settled in `claim` [1], by whoever is first. */
export interface NoiseOrder extends NoisePart {
  readonly id: number;
  readonly claim: Int32Array;
  /** Memory for n numbers that is not needed any more. */
  readonly into: Float32Array | undefined;
}
export interface NoiseMade {
  readonly id: number;
  readonly data: Float32Array;
}
export const CLAIM = { free: 0, thread: 1, taken: 2, done: 3 } as const;

/** Ordered and not yet taken, at most: 96 MB. Of a larger step the rest is ordered as parts are taken. */
const AHEAD_NUMBERS = 24e6;
/** Below, a step's noise takes less time than telling a thread to make it: 6 ms. */
const WORTH_NUMBERS = 1e6;
/** For one part; the largest, of an embedding, takes a second. After that the thread is given up. */
const PATIENCE_MS = 60_000;

/** One thread for the process, started when first worth it; it keeps nothing alive. */
let thread: { worker: Worker; port: MessagePort } | undefined;
let broken = false;
let orders = 0;
/** Of the step that was announced last: by key, what is not yet taken. */
const expected = new Map<string, { part: NoisePart; order: NoiseOrder | undefined }>();
let ordered = 0;
/** Made, but not the one that was asked for. */
const arrived = new Map<number, Float32Array>();

const nameOf = (key: Uint8Array): string => Buffer.from(key).toString('hex');

function started(): typeof thread {
  if (thread !== undefined || broken) return thread;
  const { port1, port2 } = new MessageChannel();
  // A thread does not inherit what lets the main thread read TypeScript (Node 20 with tsx), so it begins with that.
  const begin = `import(${JSON.stringify(import.meta.resolve('tsx/esm/api'))}).then(tsx => {
    tsx.register();
    return import(${JSON.stringify(new URL('./noise-thread.ts', import.meta.url).href)});
  })`;
  const worker = new Worker(begin, { eval: true, workerData: port2, transferList: [port2] });
  worker.once('error', error => giveUp(String(error)));
  worker.unref();
  port1.unref();
  thread = { worker, port: port1 };
  return thread;
}

function giveUp(why: string): void {
  process.emitWarning(
    `noise is made in the main thread from now on, which takes longer: its own thread failed (${why})`,
  );
  broken = true;
  thread?.port.close();
  void thread?.worker.terminate();
  thread = undefined;
}

/** Announces a step's noise. What was announced before and not taken is forgotten. */
export function expectNoise(parts: readonly NoisePart[]): void {
  for (const { order } of expected.values()) if (order !== undefined) collect(order);
  expected.clear();
  arrived.clear();
  ordered = 0;
  if (parts.reduce((sum, { n }) => sum + n, 0) >= WORTH_NUMBERS) {
    for (const part of parts) expected.set(nameOf(part.key), { part, order: undefined });
    placeOrders();
  }
  // What no part of this step is as large as would be kept for nothing.
  const held = lent.filter(({ tensor }) => !tensor.isDisposed);
  lent.splice(0, lent.length, ...held);
}

/** The part's numbers, announced or not. Once for each key: whoever needs them again keeps them. */
export const takeNoise = (part: NoisePart): Float32Array =>
  takeAhead(part) ?? new SecureStream(part.key).normal(part.n, part.std);

/** What the thread has made, or is making, of a part; undefined where it has not begun, and then it never will. */
export function takeAhead(part: NoisePart): Float32Array | undefined {
  const name = nameOf(part.key);
  const own = expected.get(name);
  expected.delete(name);
  let made: Float32Array | undefined;
  if (own?.order !== undefined) {
    made = collect(own.order);
    ordered -= own.part.n;
  }
  placeOrders();
  return own?.part.n === part.n && own.part.std === part.std ? made : undefined;
}

/** Numbers that a tensor was made of, which may share their memory for as long as it is not disposed. */
const lent: { readonly tensor: Tensor; readonly data: Float32Array }[] = [];

/**
 * `takeNoise` as a tensor [n], which the caller disposes. Its memory then serves the next step: left to the garbage collector, two
 * steps' noise lay beside each other (130 MB of 30 million parameters), and new memory costs the thread a fifth of its time.
 */
export function takeNoiseTensor(part: NoisePart): Tensor {
  const data = takeNoise(part);
  const tensor = tensorflow().tensor1d(data);
  lent.push({ tensor, data });
  return tensor;
}

/** Memory for n numbers that was lent and given back. */
function returned(n: number): Float32Array | undefined {
  const at = lent.findIndex(({ tensor, data }) => tensor.isDisposed && data.length === n);
  return at < 0 ? undefined : lent.splice(at, 1)[0]!.data;
}

function placeOrders(): void {
  for (const pending of expected.values()) {
    if (pending.order !== undefined) continue;
    if (ordered > 0 && ordered + pending.part.n > AHEAD_NUMBERS) return;
    const to = started();
    if (to === undefined) return;
    const into = returned(pending.part.n);
    pending.order = { ...pending.part, id: orders++, claim: new Int32Array(new SharedArrayBuffer(4)), into };
    ordered += pending.part.n;
    to.port.postMessage(pending.order, into === undefined ? [] : [into.buffer as ArrayBuffer]);
  }
}

function collect({ id, claim }: NoiseOrder): Float32Array | undefined {
  if (Atomics.compareExchange(claim, 0, CLAIM.free, CLAIM.taken) === CLAIM.free) return undefined;
  if (Atomics.wait(claim, 0, CLAIM.thread, PATIENCE_MS) === 'timed-out') giveUp(`nothing for ${PATIENCE_MS / 1000} s`);
  while (thread !== undefined && !arrived.has(id)) {
    const received = receiveMessageOnPort(thread.port);
    if (received === undefined) break;
    const made = received.message as NoiseMade;
    arrived.set(made.id, made.data);
  }
  const data = arrived.get(id);
  arrived.delete(id);
  return data;
}
