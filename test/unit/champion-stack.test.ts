import assert from 'node:assert/strict';
import test from 'node:test';
import { championStack } from '../../src/loop/registry/index.ts';

const history = (...words: string[]) =>
  words.map(word => ({
    kind: word.startsWith('<') ? ('rollback' as const) : ('promote' as const),
    version: Number(word.replace('<', '')),
  }));

test('a promotion puts a champion on top, a rollback takes off what lies above its target', () => {
  const cases: Array<[string[], number[]]> = [
    [[], []],
    [
      ['1', '2', '3'],
      [1, 2, 3],
    ],
    [
      ['1', '2', '3', '<2'],
      [1, 2],
    ],
    [['1', '2', '3', '<2', '<1'], [1]],
    [
      ['1', '2', '3', '<2', '4'],
      [1, 2, 4],
    ],
    [
      ['1', '2', '3', '<1', '3'],
      [1, 3],
    ],
    // A target that never was champion counts as one more on top.
    [
      ['1', '3', '<2'],
      [1, 3, 2],
    ],
    // Promoted again after others: the nearest one below is meant.
    [
      ['1', '2', '1', '3', '<1'],
      [1, 2, 1],
    ],
  ];
  for (const [words, stack] of cases) assert.deepEqual(championStack(history(...words)), stack, words.join(' '));
});
