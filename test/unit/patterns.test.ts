import assert from 'node:assert/strict';
import test from 'node:test';
import { PERSONAL_KINDS } from '../../src/events/actions.ts';
import { parsePattern } from '../../src/learn/training/constraints/pattern.ts';
import { personalProbes } from '../../src/learn/training/constraints/personal.ts';
import { redact } from '../../src/loop/curate/redact.ts';
import { fc } from '../support/properties.ts';

/** Where a text first is of the form, from its beginning; -1: nowhere. */
function firstEnd(source: string, text: string): number {
  const pattern = parsePattern(source);
  let states = pattern.start;
  for (const [i, char] of [...text].entries()) {
    states = pattern.advance(states, char);
    if (states.length === 0) return -1;
    if (pattern.done(states)) return i + 1;
  }
  return -1;
}

/** As JavaScript has it: there `.` and `\\s` are more than what is looked for here. */
const scriptOf = (source: string): string => source.replace('\\s.', '[ \\t\\n][ -~]');

const FORMS = [
  'PIN: \\d{4}',
  '(ab|a)c?[x-z]{1,3}',
  '[a-c]{2}(-|\\.)\\w',
  'x(?:yz|y){0,2}\\s.',
  '\\(\\d\\)\\?',
  '[\\d-]{3}[a\\]]',
];

test('a form is what the regular expression says, to the first end', () => {
  for (const source of FORMS) {
    const anchored = new RegExp(`^(?:${scriptOf(source)})$`);
    fc.assert(
      fc.property(fc.stringMatching(anchored), fc.string({ maxLength: 3 }), (text, more) => {
        const end = firstEnd(source, text + more);
        assert.ok(end > 0 && end <= text.length);
        assert.match(text.slice(0, end), anchored);
      }),
      { numRuns: 60 },
    );
    fc.assert(
      fc.property(fc.string({ unit: fc.constantFrom(...'PIN: 0123abcxyz-.()?]\t') }), text => {
        const shortest = [...text].findIndex((_, i) => anchored.test(text.slice(0, i + 1)));
        assert.equal(firstEnd(source, text), shortest < 0 ? -1 : shortest + 1);
      }),
      { numRuns: 200 },
    );
  }
  assert.equal(parsePattern('my PIN is \\d{4}').literal, 'my PIN is ');
  assert.equal(parsePattern('a{3}b?').literal, 'aaa');
});

test('what has no bound or no meaning is refused where it stands', () => {
  for (const [source, message] of [
    ['\\d+', /character 3: \+ has no end/],
    ['a*', /character 2: \* has no end/],
    ['\\d{2,}', /no end/],
    ['^a', /\^ has no meaning here/],
    ['[^a]', /negated/],
    ['(a', /not closed/],
    ['a)', /not opened/],
    ['[ab', /not closed/],
    ['[b-a]', /must go up/],
    ['\\b', /\\b is not known/],
    ['a{3,2}', /m not above n/],
    ['a?', /without characters/],
    ['a\\', /backslash/],
    ['(a{100}){9}', /states/],
    ['', /1 to 256/],
  ] as const)
    assert.throws(() => parsePattern(source), { code: 'invalid', field: 'pattern', message }, source);
});

test('the forms of personal data are what redaction finds', () => {
  for (const kind of PERSONAL_KINDS) {
    const probes = personalProbes(kind);
    assert.ok(probes.length > 0 && probes.every(({ prompt }) => prompt !== undefined));
    for (const { pattern } of probes)
      fc.assert(
        fc.property(fc.stringMatching(new RegExp(`^(?:${pattern})$`)), text => {
          assert.ok(firstEnd(pattern, text) > 0);
          assert.deepEqual(redact(text).found, { [kind]: 1 }, text);
        }),
        { numRuns: 60 },
      );
  }
});
