import assert from 'node:assert/strict';
import test from 'node:test';
import { STATES } from '../../src/loop/round/machine.ts';
import type { RoundState } from '../../src/store/rounds.ts';

const states = Object.keys(STATES) as RoundState[];

test('every state leads to known states, and every state is reached from planned', () => {
  const reached = new Set<RoundState>(['planned']);
  for (const state of reached) for (const next of STATES[state].to) reached.add(next);
  assert.deepEqual([...reached].sort(), [...states].sort());
});

test('a state has work exactly when it leads on', () => {
  for (const state of states) assert.equal(STATES[state].step !== undefined, STATES[state].to.length > 0, state);
});

test('the table has no cycle, and each step that works may fail', () => {
  const visit = (state: RoundState, path: readonly RoundState[]): void => {
    assert.ok(!path.includes(state), `cycle: ${[...path, state].join(' -> ')}`);
    for (const next of STATES[state].to) visit(next, [...path, state]);
  };
  visit('planned', []);
  for (const state of states) if (STATES[state].step) assert.ok(STATES[state].to.includes('failed'), state);
});

test('only before training begins may a round be refused', () => {
  assert.deepEqual(
    states.filter(state => STATES[state].to.includes('refused')),
    ['planned', 'reserved'],
  );
});
