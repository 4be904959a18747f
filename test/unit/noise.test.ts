import assert from 'node:assert/strict';
import test from 'node:test';
import { keyFor, SecureStream, streamFor } from '../../src/learn/privacy/noise.ts';
import { expectNoise, isAhead, takeNoise, takeNoiseTensor } from '../../src/learn/privacy/noise-ahead.ts';
import { type Block, NoiseRing } from '../../src/learn/privacy/noise-ring.ts';
import { type Tensor, tensorflow } from '../../src/learn/tensor/backend.ts';
import { fc } from '../support/properties.ts';

const seed = new Uint8Array(32).fill(5);
const N = 1_000_000;

/** Upper tail of the standard normal by its continued fraction (Abramowitz and Stegun 26.2.14), good from 1 on; by series below. */
function normalCdf(x: number): number {
  const z = Math.abs(x);
  const density = Math.exp((-z * z) / 2) / Math.sqrt(2 * Math.PI);
  let tail: number;
  if (z > 2) {
    let fraction = 0;
    for (let k = 60; k > 0; k--) fraction = k / (z + fraction);
    tail = density / (z + fraction);
  } else {
    let term = z;
    let sum = z;
    for (let k = 1; k < 60; k++) {
      term *= (z * z) / (2 * k + 1);
      sum += term;
    }
    tail = 0.5 - density * sum;
  }
  return x > 0 ? 1 - tail : tail;
}

test('a million draws by the ziggurat: moments, distribution, independence of neighbours', () => {
  const x = Float64Array.from(streamFor(seed, 'test').normal(N));
  assert.equal(x.length, N);
  const mean = (f: (v: number, i: number) => number) => x.reduce((sum, v, i) => sum + f(v, i), 0) / N;
  // Six standard errors: sqrt of 1, 2, 15 and 96 over N.
  assert.ok(Math.abs(mean(v => v)) < 6 / Math.sqrt(N));
  assert.ok(Math.abs(mean(v => v * v) - 1) < 6 * Math.sqrt(2 / N));
  assert.ok(Math.abs(mean(v => v ** 3)) < 6 * Math.sqrt(15 / N));
  assert.ok(Math.abs(mean(v => v ** 4) - 3) < 6 * Math.sqrt(96 / N));
  assert.ok(Math.abs(mean((v, i) => v * x[(i + 1) % N]!)) < 6 / Math.sqrt(N));
  const sorted = x.sort();
  let distance = 0;
  sorted.forEach((v, i) => {
    const p = normalCdf(v);
    distance = Math.max(distance, Math.abs(p - i / N), Math.abs(p - (i + 1) / N));
  });
  // Kolmogorov: P(sqrt(N) D > 2.6) = 2 exp(-2 * 2.6^2) = 3e-6.
  assert.ok(distance * Math.sqrt(N) < 2.6, `KS ${distance * Math.sqrt(N)}`);
});

test('the tail: as many beyond 2, 3, 3.65 (where it is drawn by other means), 4 and 5 standard deviations as there should be, on both sides', () => {
  const stream = streamFor(seed, 'tails');
  const bounds = [2, 3, 3.6541528853610088, 4, 5];
  const above = bounds.map(() => 0);
  const below = bounds.map(() => 0);
  const draws = 20 * N;
  let largest = 0;
  for (let i = 0; i < 20; i++) {
    for (const x of stream.normal(N)) {
      const size = Math.abs(x);
      if (size > largest) largest = size;
      const counts = x > 0 ? above : below;
      for (let b = 0; b < bounds.length && size > bounds[b]!; b++) counts[b]! += 1;
    }
  }
  bounds.forEach((bound, b) => {
    const expected = draws * (1 - normalCdf(bound));
    for (const count of [above[b]!, below[b]!])
      assert.ok(Math.abs(count - expected) < 6 * Math.sqrt(expected) + 1, `${count} beyond ${bound}, not ${expected}`);
  });
  assert.ok(largest > 5 && largest < 7);
});

test('neither the layer nor the place in it leaves a pattern: the lowest bits of a draw say nothing of the next ones', () => {
  const x = streamFor(seed, 'bits').normal(N);
  // Signs and sizes of neighbours by a table of 8 x 8 cells of equal probability: chi-squared with 49 degrees of freedom, 6 sigma.
  const cell = (v: number) => Math.min(7, Math.floor(8 * normalCdf(v)));
  const counts = new Float64Array(64);
  for (let i = 0; i + 1 < N; i += 2) counts[8 * cell(x[i]!) + cell(x[i + 1]!)]! += 1;
  const expected = N / 2 / 64;
  const chi = counts.reduce((sum, count) => sum + (count - expected) ** 2 / expected, 0);
  assert.ok(Math.abs(chi - 63) < 6 * Math.sqrt(2 * 63), `chi-squared ${chi}`);
  assert.ok(new Set(x).size > 0.97 * N, 'as many different numbers as float32 and 2^31 words allow');
});

test('the second thread makes the same numbers; a part it has not begun, or of another size, is made here', async () => {
  const warnings: Error[] = [];
  const note = (warning: Error) => warnings.push(warning);
  process.on('warning', note);
  const part = (purpose: string, n = 600_000) => ({ key: keyFor(seed, purpose), n, std: 3 });
  const wanted = (purpose: string, n = 600_000) => streamFor(seed, purpose).normal(n, 3);
  let byThread = false;
  // Until the thread has started, nothing is waited for.
  for (let i = 0; i < 400 && !byThread; i++) {
    expectNoise([part('a'), part('b'), part('c')]);
    await new Promise(resolve => setTimeout(resolve, 50));
    byThread = isAhead(part('a'));
    assert.deepEqual(takeNoise(part('a')), wanted('a'));
  }
  assert.ok(byThread, 'the thread has made nothing in 20 s');
  // In another order than announced, and one with other numbers than announced.
  assert.deepEqual(takeNoise(part('c')), wanted('c'));
  assert.deepEqual(takeNoise(part('b', 10)), wanted('b', 10));
  assert.deepEqual(takeNoise(part('b')), wanted('b'));
  // A tensor's numbers stay while it is not disposed, whatever is made meanwhile; then their memory is used again.
  const held: Tensor[] = [];
  for (const purpose of ['i', 'j', 'k', 'l']) {
    expectNoise([part(purpose), part(`${purpose} too`)]);
    await new Promise(resolve => setTimeout(resolve, 100));
    held.push(takeNoiseTensor(part(purpose)));
  }
  for (const [i, purpose] of ['i', 'j', 'k', 'l'].entries()) {
    assert.deepEqual(held[i]!.dataSync(), wanted(purpose));
    held[i]!.dispose();
  }
  // An announcement that nobody comes for is in nobody's way.
  expectNoise([part('d'), part('e')]);
  expectNoise([part('f'), part('g')]);
  assert.deepEqual(takeNoise(part('d')), wanted('d'));
  assert.deepEqual(takeNoise(part('g')), wanted('g'));
  expectNoise([]);
  process.off('warning', note);
  assert.deepEqual(warnings, []);
});

test('blocks of the ring never share memory while both are held, whatever the order in which they are let go', () => {
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.integer({ min: 1, max: 90 }), fc.nat(3)), { maxLength: 60 }), script => {
      const ring = new NoiseRing(160);
      const held: { block: Block; mark: number }[] = [];
      for (const [mark, [n, drop]] of script.entries()) {
        const block = ring.take(n);
        if (block === undefined) assert.ok(held.length > 0, `${n} numbers have no room in an empty ring of 160`);
        else {
          block.data.fill(mark);
          held.push({ block, mark });
        }
        for (const { block, mark } of held) assert.ok(block.data.every(x => x === mark));
        if (drop < held.length) held.splice(drop, 1)[0]!.block.release();
      }
    }),
  );
  const ring = new NoiseRing(64);
  const first = ring.take(40)!;
  assert.equal(ring.take(40), undefined);
  const tensor = tensorflow().tensor1d([1]);
  first.lend(tensor);
  assert.equal(ring.take(40), undefined);
  tensor.dispose();
  assert.equal(ring.take(40)!.data.byteOffset, first.data.byteOffset);
});

test('a seed and purpose give the same numbers in every form, other seeds and purposes others', () => {
  const n = 70_001;
  const first = streamFor(seed, 'a').normal(n, 2);
  const filled = new Float64Array(n);
  streamFor(seed, 'a').fillNormal(filled, 2);
  assert.deepEqual(Float32Array.from(filled), first);
  assert.notDeepEqual(streamFor(seed, 'b').normal(n, 2), first);
  const stream = new SecureStream(seed);
  assert.notDeepEqual(stream.normal(n), stream.normal(n));
  assert.ok(stream.uniform() < 1);
});

test('numbers that are already drawn are not drawn again after a change of the way they are made', () => {
  const [one, other] = [new SecureStream(seed), new SecureStream(seed)];
  const small = one.normal(10);
  const large = one.normal(70_000);
  assert.deepEqual(other.normal(10), small);
  assert.deepEqual(other.normal(70_000), large);
  const overlap = new Set(large);
  assert.ok([...small].every(x => !overlap.has(x)));
});
