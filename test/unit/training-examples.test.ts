import assert from 'node:assert/strict';
import test from 'node:test';
import { groupByLength } from '../../src/learn/model/engine/batch.ts';
import { instructExample, packedExamples, unitExamples } from '../../src/learn/training/examples.ts';
import { scheduleRate } from '../../src/learn/training/optimizer.ts';
import { fc } from '../support/properties.ts';

const documents = fc.array(fc.array(fc.integer({ min: 0, max: 99 }), { maxLength: 40 }), { maxLength: 8 });
const length = fc.integer({ min: 2, max: 17 });
const predicted = (examples: { tokens: readonly number[] }[]) => examples.flatMap(e => e.tokens.slice(1));

test('a unit keeps its documents apart, and every token but a first is predicted once', () => {
  fc.assert(
    fc.property(documents, length, (texts, n) => {
      const examples = unitExamples(texts, n);
      assert.deepEqual(
        predicted(examples),
        texts.flatMap(t => t.slice(1)),
      );
      assert.ok(examples.every(e => e.tokens.length >= 2 && e.tokens.length <= n));
    }),
  );
});

test('a cap on a unit spreads over its pieces', () => {
  const examples = unitExamples([Array.from({ length: 100 }, (_, i) => i)], 10, 3);
  assert.deepEqual(
    examples.map(e => e.tokens[0]),
    [0, 27, 63],
  );
  assert.throws(() => unitExamples([], 1), { field: 'sequence' });
});

test('packing joins documents by the separator and fills every sequence but the last', () => {
  fc.assert(
    fc.property(documents, length, (texts, n) => {
      const stream = texts.flatMap(t => (t.length > 0 ? [...t, 100] : []));
      const examples = packedExamples(texts, n, 100);
      assert.deepEqual(predicted(examples), stream.slice(1));
      assert.ok(examples.slice(0, -1).every(e => e.tokens.length === n));
    }),
  );
  assert.deepEqual(predicted(packedExamples([[1, 2], [3]], 9, undefined)), [2, 3]);
});

test('an instruction is scored on its answer alone; a long prompt loses its front', () => {
  const example = instructExample([1, 2, 3], [7, 8], 10)!;
  assert.deepEqual(example, { tokens: [1, 2, 3, 7, 8], mask: [false, false, false, true, true] });
  assert.deepEqual(instructExample([1, 2, 3, 4, 5, 6], [7, 8], 5)!.tokens, [4, 5, 6, 7, 8]);
  const long = instructExample([1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11], 6)!;
  assert.deepEqual(long.tokens, [4, 5, 6, 7, 8, 9]);
  assert.equal(instructExample([1, 2], [], 6), undefined);
  assert.equal(instructExample([], [7], 6), undefined);
});

test('groups hold every item once, alike in length, within the token limit', () => {
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 1, max: 50 })), fc.integer({ min: 1, max: 200 }), (lengths, limit) => {
      const groups = groupByLength(lengths, limit);
      assert.deepEqual(
        groups.flat().sort((a, b) => a - b),
        lengths.map((_, i) => i),
      );
      for (const group of groups)
        assert.ok(group.length === 1 || Math.max(...group.map(i => lengths[i]!)) * group.length <= limit);
    }),
  );
});

test('schedules warm up, then fall to their floor', () => {
  const rates = Array.from({ length: 10 }, (_, step) => scheduleRate('cosine', step, 10, 4, 0.1));
  assert.deepEqual(rates.slice(0, 5), [0.25, 0.5, 0.75, 1, 1]);
  assert.ok(rates.slice(4).every((rate, i, all) => i === 0 || rate < all[i - 1]!) && rates[9]! > 0.1);
  assert.ok(Math.abs(scheduleRate('linear', 7, 10, 4, 0.2) - 0.6) < 1e-12);
  assert.equal(scheduleRate('constant', 9, 10), 1);
});
