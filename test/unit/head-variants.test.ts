import assert from 'node:assert/strict';
import test from 'node:test';
import { withVariants } from '../../src/learn/training/variants.ts';

const four = { seed: `augment:${'07'.repeat(32)}`, count: 4 };
const labels = ['card_lost', 'balance'];
const example = (unit: string, text: string) => ({ unit, text, label: 'balance' });

test('what a user gives with variants follows from this user alone', async () => {
  const own = [example('ana', 'How much money do I have in my account?'), example('ana', 'Please tell me my balance.')];
  const of = async (examples: typeof own) =>
    (await withVariants(examples, four, labels)).filter(({ unit }) => unit === 'ana');
  const alone = await of(own);
  assert.equal(alone.length, 2 * 5);
  assert.ok(new Set(alone.map(({ text }) => text)).size > 5);
  assert.ok(alone.every(({ label }) => label === 'balance'));
  for (const size of [1, 20, 64]) {
    const others = Array.from({ length: size }, (_, i) => example('bo', `What is left on account number ${i}?`));
    assert.deepEqual(await of([...others, ...own]), alone);
  }
});

test('a user with many examples has fewer variants, so that every example still counts, and as many as any other of his', async () => {
  const sizes = { 12: 5, 13: 4, 20: 3, 32: 2, 33: 1, 64: 1, 80: 1 };
  for (const [size, each] of Object.entries(sizes)) {
    const examples = Array.from({ length: Number(size) }, (_, i) =>
      example('cy', `Show me the balance of account ${i}.`),
    );
    const found = await withVariants(examples, four, labels);
    assert.equal(found.length, Number(size) * each);
    assert.ok(found.length <= Math.max(64, Number(size)));
  }
});
