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

/** Ordered and not yet used, at most: 88 MB. Of a larger step the rest is ordered as parts are used. */
const AHEAD_NUMBERS = 22e6;
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
  worker.once('exit', code => {
    if (thread?.worker === worker) giveUp(`it ended with code ${code}`);
  });
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
  for (const { order } of expected.values()) {
    if (order === undefined) continue;
    collect(order);
    order.block.release();
  }
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
export function takeNoise(part: NoisePart): Float32Array {
  const taken = takeBlock(part);
  const numbers = taken?.made === true ? taken.block.data.slice() : new SecureStream(part.key).normal(part.n, part.std);
  taken?.block.release();
  return numbers;
}

/**
 * `takeNoise` as a tensor [n], which the caller disposes; then its memory serves the parts to come. What is made here lies in the same
 * memory: arrays of its own wait for a garbage collector, 170 MB of them in the steps before the thread has started.
 */
export function takeNoiseTensor(part: NoisePart): Tensor {
  const taken = takeBlock(part);
  const block = taken?.block ?? ring?.take(part.n);
  const data = block?.data ?? new Float32Array(part.n);
  if (taken?.made !== true) new SecureStream(part.key).fillNormal(data, part.std);
  const tensor = tensorflow().tensor1d(data);
  block?.lend(tensor);
  placeOrders();
  return tensor;
}

/** Where the thread has made, or is making, a part; what it has not begun it will not make, but the memory is there. */
function takeBlock(part: NoisePart): { block: Block; made: boolean } | undefined {
  const name = nameOf(part.key);
  const own = expected.get(name);
  expected.delete(name);
  if (own?.order === undefined) return undefined;
  const { block } = own.order;
  const made = collect(own.order);
  if (own.part.n === part.n && made !== 'failed') return { block, made: made === 'made' && own.part.std === part.std };
  block.release();
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

/** Waits for an order that the thread has begun; one that it has not, it will not begin any more. */
function collect({ claim }: Order): 'made' | 'not begun' | 'failed' {
  if (Atomics.compareExchange(claim, 0, CLAIM.free, CLAIM.taken) === CLAIM.free) return 'not begun';
  if (Atomics.wait(claim, 0, CLAIM.thread, PATIENCE_MS) !== 'timed-out') return 'made';
  giveUp(`nothing for ${PATIENCE_MS / 1000} s`);
  return 'failed';
}

/** Whether the thread has made an announced part already. For tests: whoever takes noise need not know. */
export function isAhead(part: NoisePart): boolean {
  const claim = expected.get(nameOf(part.key))?.order?.claim;
  return claim !== undefined && Atomics.load(claim, 0) === CLAIM.done;
}
