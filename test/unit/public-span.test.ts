import assert from 'node:assert/strict';
import test from 'node:test';
import { PublicSpan } from '../../src/learn/compress/public-span.ts';
import { streamFor } from '../../src/learn/privacy/index.ts';

test('the part along public directions: theirs whole, of noise a share by their number, of what is orthogonal nothing', () => {
  const [rank, width] = [12, 4000];
  const stream = streamFor(Buffer.alloc(32, 7), 'span');
  const rows = Array.from({ length: rank }, () => stream.normal(width, 0.1));
  const span = new PublicSpan(rows);
  assert.equal(span.rank, rank);
  const square = (x: Float64Array) => x.reduce((sum, v) => sum + v * v, 0);
  const mixed = Float64Array.from({ length: width }, (_, i) => 2 * rows[0]![i]! - 0.5 * rows[7]![i]!);
  const along = span.project(mixed);
  assert.ok(square(along.map((v, i) => v - mixed[i]!)) < 1e-8 * square(mixed));
  const noise = Float64Array.from(stream.normal(width));
  const within = span.project(noise);
  assert.ok(square(within) > 0.2 * rank && square(within) < 3 * rank, `${square(within)}`);
  const rest = noise.map((v, i) => v - within[i]!);
  assert.ok(square(span.project(rest)) < 1e-8 * square(rest));
  // The same text twice.
  const twice = new PublicSpan([...rows, rows[0]!]).project(mixed);
  assert.ok(square(twice.map((v, i) => v - mixed[i]!)) < 1e-6 * square(mixed));
});
