/**
 * A step's noise made by a second thread, beside the passes that its sum comes from. Whoever asks for a part that is not there yet
 * makes it himself: the numbers follow from key, count and deviation alone, so the thread can only save time.
 */
import { MessageChannel, type MessagePort, Worker } from 'node:worker_threads';
import { type Tensor, tensorflow } from '../tensor/backend.ts';
import { SecureStream } from './noise.ts';
import { type Block, NoiseRing } from './noise-ring.ts';

/** One part of a step's noise: `n` numbers of deviation `std` from the stream of `key`. */
export interface NoisePart {
  readonly key: Uint8Array;
  readonly n: number;
  readonly std: number;
}

/** What the thread is sent. Who makes the part is settled in `claim` [1], by whoever is first. */
export interface NoiseOrder {
  readonly key: Uint8Array;
  readonly std: number;
  readonly claim: Int32Array;
  /** Shared memory that the numbers go to. */
  readonly into: Float32Array;
}
export const CLAIM = { free: 0, thread: 1, taken: 2, done: 3 } as const;

/** Ordered and not yet used, at most: 96 MB. Of a larger step the rest is ordered as parts are used. */
const AHEAD_NUMBERS = 24e6;
/** Below, a step's noise takes less time than telling a thread to make it: 6 ms. */
const WORTH_NUMBERS = 1e6;
/** For one part; the largest, of an embedding, takes a second. After that the thread is given up. */
const PATIENCE_MS = 60_000;

/** One thread for the process, started when first worth it; it keeps nothing alive. */
let thread: { worker: Worker; port: MessagePort } | undefined;
let broken = false;
/** Kept from step to step: new memory costs the thread a fifth of its time. */
let ring: NoiseRing | undefined;
interface Order {
  readonly claim: Int32Array;
  readonly block: Block;
}
/** Of the step that was announced last: by key, what is not yet taken. */
const expected = new Map<string, { readonly part: NoisePart; order?: Order }>();

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
  ring = undefined;
}

/**
 * Announces a step's noise, best in the order in which it will be taken. What was announced before and not taken is forgotten. A step
 * of few numbers, or of none, lets go of the memory for many.
 */
export function expectNoise(parts: readonly NoisePart[]): void {
  for (const { order } of expected.values()) if (order !== undefined) collect(order)?.release();
  expected.clear();
  const sizes = parts.map(({ n }) => NoiseRing.room(n));
  const total = sizes.reduce((sum, size) => sum + size, 0);
  if (total < WORTH_NUMBERS || broken) {
    ring = undefined;
    return;
  }
  const numbers = Math.max(Math.min(total, AHEAD_NUMBERS), ...sizes);
  if (ring?.numbers !== numbers) ring = new NoiseRing(numbers);
  for (const part of parts) expected.set(nameOf(part.key), { part });
  placeOrders();
}

/** The part's numbers, announced or not. Once for each key: whoever needs them again keeps them. */
export const takeNoise = (part: NoisePart): Float32Array =>
  takeAhead(part) ?? new SecureStream(part.key).normal(part.n, part.std);

/** What the thread has made, or is making, of a part; undefined where it has not begun, and then it never will. */
export function takeAhead(part: NoisePart): Float32Array | undefined {
  const block = takeBlock(part);
  const copy = block?.data.slice();
  block?.release();
  return copy;
}

/** `takeNoise` as a tensor [n], which the caller disposes; then its memory serves the parts to come. */
export function takeNoiseTensor(part: NoisePart): Tensor {
  const tf = tensorflow();
  const block = takeBlock(part);
  if (block === undefined) return tf.tensor1d(takeNoise(part));
  // TensorFlow takes the numbers where they lie, as they lie at a multiple of 64 bytes.
  const tensor = tf.tensor1d(block.data);
  block.lend(tensor);
  return tensor;
}

function takeBlock(part: NoisePart): Block | undefined {
  const name = nameOf(part.key);
  const own = expected.get(name);
  expected.delete(name);
  const block = own?.order && collect(own.order);
  placeOrders();
  if (own?.part.n === part.n && own.part.std === part.std) return block;
  block?.release();
  return undefined;
}

function placeOrders(): void {
  if (ring === undefined) return;
  for (const pending of expected.values()) {
    if (pending.order !== undefined) continue;
    const { key, n, std } = pending.part;
    const to = started();
    const block = to && ring.take(n);
    if (block === undefined) return;
    const claim = new Int32Array(new SharedArrayBuffer(4));
    pending.order = { claim, block };
    const order: NoiseOrder = { key, std, claim, into: block.data };
    to!.port.postMessage(order);
  }
}

/** The order's block once it is filled; undefined, and the block free again, where the thread has not begun or has failed. */
function collect({ claim, block }: Order): Block | undefined {
  if (Atomics.compareExchange(claim, 0, CLAIM.free, CLAIM.taken) === CLAIM.free) {
    block.release();
    return undefined;
  }
  if (Atomics.wait(claim, 0, CLAIM.thread, PATIENCE_MS) !== 'timed-out') return block;
  giveUp(`nothing for ${PATIENCE_MS / 1000} s`);
  return undefined;
}
