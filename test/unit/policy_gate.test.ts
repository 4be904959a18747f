import assert from 'node:assert/strict';
import test from 'node:test';
import type { GateFigures } from '../../src/events/signals.ts';
import { compileGate } from '../../src/loop/policy/gate.ts';
import { parsePolicy } from '../../src/loop/policy/parse.ts';

const gate = (lines?: string) => compileGate(parsePolicy(`rules: []\n${lines ?? ''}`, { file: 'p.yaml' }));
const card = (given: Partial<GateFigures>): GateFigures => ({
  perplexity: null,
  f1: null,
  parameters: 1000,
  size_mb: 100,
  tokens_per_second: 50,
  ...given,
});
const results = (verdict: ReturnType<ReturnType<typeof gate>>) => [
  verdict.admitted,
  ...verdict.lines.map(l => l.result),
];

test('the default gate, on its limits', () => {
  const admit = gate();
  const champion = card({ perplexity: 50, f1: 0.8 });
  assert.deepEqual(results(admit(champion, card({ perplexity: 51, f1: 0.79 }))), [true, 'pass', 'pass']);
  assert.deepEqual(results(admit(champion, card({ perplexity: 51.01, f1: 0.9 }))), [false, 'fail', 'pass']);
  assert.deepEqual(results(admit(champion, card({ perplexity: 40, f1: 0.78 }))), [false, 'pass', 'fail']);
});

test('a verdict carries both figures', () => {
  const verdict = gate()(card({ perplexity: 50, f1: 0.8 }), card({ perplexity: 60, f1: 0.9 }));
  assert.deepEqual(verdict.lines[0], {
    expression: 'candidate.perplexity <= champion.perplexity * 1.02',
    result: 'fail',
    values: { 'candidate.perplexity': 60, 'champion.perplexity': 50 },
    reason: 'candidate.perplexity = 60, champion.perplexity = 50',
  });
});

test('a line about what the deployment does not have does not apply, and says so', () => {
  const verdict = gate()(card({ perplexity: 50 }), card({ perplexity: 50 }));
  assert.deepEqual(results(verdict), [true, 'pass', 'does not apply']);
  assert.equal(verdict.lines[1]!.reason, 'candidate.f1, champion.f1 are not known in this deployment');
  assert.deepEqual(results(gate()(card({}), card({}))), [true, 'does not apply', 'does not apply']);
  // The first labels came after the champion was measured: nothing to compare with.
  assert.deepEqual(results(gate()(card({}), card({ f1: 0.5 }))), [true, 'does not apply', 'does not apply']);
});

test('a candidate that lost a figure, or whose figure is no number, fails', () => {
  const champion = card({ perplexity: 50, f1: 0.8 });
  for (const perplexity of [null, Number.NaN, Number.POSITIVE_INFINITY]) {
    const verdict = gate()(champion, card({ perplexity, f1: 0.8 }));
    assert.deepEqual(results(verdict), [false, 'fail', 'pass']);
    assert.equal(verdict.lines[0]!.reason, 'candidate.perplexity could not be measured while champion.perplexity = 50');
  }
});

test('lines over any figure and signal', () => {
  const admit = gate(`gate:
  - candidate.size_mb < champion.size_mb && candidate.tokens_per_second > champion.tokens_per_second * 1.1
  - candidate.epsilon <= 1 || budget.epsilon_left > 4.0
  - candidate.parameters < 900
`);
  const verdict = admit(card({}), card({ size_mb: 80, tokens_per_second: 60, parameters: 899, epsilon: 2 }), {
    'budget.epsilon_left': 5,
  });
  assert.deepEqual(results(verdict), [true, 'pass', 'pass', 'pass']);
  assert.deepEqual(results(admit(card({}), card({ epsilon: 2 }), { 'budget.epsilon_left': 1 })), [
    false,
    'fail',
    'fail',
    'fail',
  ]);
});

test('an empty gate admits', () => {
  assert.deepEqual(results(gate('gate: []')(card({}), card({}))), [true]);
});
