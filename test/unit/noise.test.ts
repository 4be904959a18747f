import assert from 'node:assert/strict';
import test from 'node:test';
import { SecureStream, streamFor } from '../../src/learn/privacy/noise.ts';

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

test('a million native draws: moments, distribution, independence of neighbours and of pairs', () => {
  const x = Float64Array.from(streamFor(seed, 'test').normal(N));
  assert.equal(x.length, N);
  const mean = (f: (v: number, i: number) => number) => x.reduce((sum, v, i) => sum + f(v, i), 0) / N;
  // Six standard errors: sqrt of 1, 2, 15 and 96 over N.
  assert.ok(Math.abs(mean(v => v)) < 6 / Math.sqrt(N));
  assert.ok(Math.abs(mean(v => v * v) - 1) < 6 * Math.sqrt(2 / N));
  assert.ok(Math.abs(mean(v => v ** 3)) < 6 * Math.sqrt(15 / N));
  assert.ok(Math.abs(mean(v => v ** 4) - 3) < 6 * Math.sqrt(96 / N));
  assert.ok(Math.abs(mean((v, i) => v * x[(i + 1) % N]!)) < 6 / Math.sqrt(N));
  // The two numbers of a pair stand half of the draw apart: neither they nor their squares go together.
  const half = Math.ceil(N / 2048) * 1024;
  const pair = (f: (v: number) => number) => {
    let sum = 0;
    for (let i = 0; i + half < N; i++) sum += f(x[i]!) * f(x[i + half]!);
    return sum / (N - half);
  };
  assert.ok(Math.abs(pair(v => v)) < 6 / Math.sqrt(half));
  assert.ok(Math.abs(pair(v => v * v - 1)) < 6 * (2 / Math.sqrt(half)));
  const sorted = x.sort();
  let distance = 0;
  sorted.forEach((v, i) => {
    const p = normalCdf(v);
    distance = Math.max(distance, Math.abs(p - i / N), Math.abs(p - (i + 1) / N));
  });
  // Kolmogorov: P(sqrt(N) D > 2.6) = 2 exp(-2 * 2.6^2) = 3e-6.
  assert.ok(distance * Math.sqrt(N) < 2.6, `KS ${distance * Math.sqrt(N)}`);
});

test('beyond 5 standard deviations the radius is as fine as float32, and there is room beyond 9', () => {
  // The radius at the largest word that gets no further bits, the next one, and the smallest value of those that do.
  const radius = (size: number) => Math.sqrt(-2 * Math.log(size * 2 ** -31));
  assert.ok(radius(1024) > 5.3 && radius(1024) - radius(1025) < 2e-4);
  assert.ok(radius(2 ** -33) > 9.4);
  // Twenty million draws hold about 10 beyond 5 standard deviations: P = 5.7e-7, both sides.
  const stream = streamFor(seed, 'tails');
  let beyond = 0;
  for (let i = 0; i < 20; i++) for (const x of stream.normal(N)) if (Math.abs(x) > 5) beyond++;
  assert.ok(beyond >= 2 && beyond <= 28, `${beyond}`);
});

test('a seed and purpose give the same numbers in every form, other seeds and purposes others', () => {
  const n = 70_001;
  const first = streamFor(seed, 'a').normal(n, 2);
  const tensor = streamFor(seed, 'a').normalTensor(n, 2);
  const filled = new Float64Array(n);
  streamFor(seed, 'a').fillNormal(filled, 2);
  assert.deepEqual(tensor.shape, [n]);
  assert.deepEqual(tensor.dataSync(), first);
  assert.deepEqual(Float32Array.from(filled), first);
  tensor.dispose();
  assert.notDeepEqual(streamFor(seed, 'b').normal(n, 2), first);
  const small = streamFor(seed, 'a').normalTensor(1000);
  assert.deepEqual(small.dataSync(), streamFor(seed, 'a').normal(1000));
  small.dispose();
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
