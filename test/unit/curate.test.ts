import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import test from 'node:test';
import { NEAR, UnitMemory } from '../../src/loop/curate/duplicates.ts';
import { OwnOutputs } from '../../src/loop/curate/provenance.ts';
import { normalize, similarity, sketch, sketchBytes, sketchFrom } from '../../src/loop/curate/sketch.ts';
import { splitKey, splitOf, unitOf } from '../../src/loop/curate/split.ts';
import { fc } from '../support/properties.ts';

const secret = Buffer.from('a secret of this deployment');

/** Jaccard similarity by the definition, as the oracle for the sketch. */
function jaccard(a: string, b: string): number {
  const shingles = (text: string) => {
    // A text shorter than a shingle is padded to one.
    const normal = normalize(text).padEnd(normalize(text) === '' ? 0 : 5);
    return new Set(Array.from({ length: Math.max(0, normal.length - 4) }, (_, i) => normal.slice(i, i + 5)));
  };
  const [one, two] = [shingles(a), shingles(b)];
  const both = [...one].filter(s => two.has(s)).length;
  return both / (one.size + two.size - both);
}

test('the split is the first 8 bytes of the keyed hash, a share of users, and never the same for another secret', () => {
  const first = createHmac('sha256', secret).update('u:anna').digest().readBigUInt64BE(0);
  const at = Number(first) / 2 ** 64;
  assert.equal(splitOf(secret, 'u:anna', at + 1e-9), 'holdout');
  assert.equal(splitOf(secret, 'u:anna', at - 1e-9), 'train');
  const users = Array.from({ length: 20_000 }, (_, i) => `u:user ${i}`);
  const held = users.filter(user => splitOf(secret, user, 0.2) === 'holdout');
  // Standard deviation sqrt(20000 * 0.2 * 0.8) = 57; five of them.
  assert.ok(Math.abs(held.length - 4000) < 285, `${held.length} of 20000 held out`);
  const other = held.filter(user => splitOf(Buffer.from('another'), user, 0.2) === 'holdout');
  assert.ok(Math.abs(other.length / held.length - 0.2) < 0.05, 'two secrets split independently');
});

test('a user is one unit; without a user the event is, and equal content stands on one side', () => {
  assert.equal(unitOf('anna', 7), 'u:anna');
  assert.equal(unitOf(undefined, 7), 'e:7');
  assert.equal(splitKey('anna', 'text one'), splitKey('anna', 'text two'));
  assert.equal(splitKey(undefined, 'text one'), splitKey(undefined, 'text one'));
  assert.notEqual(splitKey(undefined, 'text one'), splitKey(undefined, 'text two'));
  assert.notEqual(splitKey('anna', 'x'), splitKey(undefined, 'anna'));
});

test('the sketch gives the Jaccard similarity: exactly for short texts, within sampling error for long ones (fast-check)', () => {
  const word = fc.constantFrom(
    ...'card money transfer account lost stolen fee rate top up pin limit bank the a my why how'.split(' '),
  );
  const sentence = fc.array(word, { minLength: 1, maxLength: 7 }).map(words => words.join(' '));
  fc.assert(
    fc.property(sentence, sentence, (a, b) => {
      const exact = jaccard(a, b);
      if (!Number.isNaN(exact)) assert.ok(Math.abs(similarity(sketch(a), sketch(b)) - exact) < 1e-9);
    }),
  );
  const long = (seed: number, changed: number) =>
    Array.from({ length: 400 }, (_, i) => `w${(i % 100 < changed ? seed : 0) * 1000 + i}x${i * 7}`).join(' ');
  for (const changed of [0, 5, 20, 50, 100]) {
    const [a, b] = [long(1, changed), long(2, changed)];
    const exact = jaccard(a, b);
    const error = 4 * Math.sqrt((exact * (1 - exact)) / 64) + 0.02;
    assert.ok(Math.abs(similarity(sketch(a), sketch(b)) - exact) < error, `changed ${changed}: exact ${exact}`);
  }
});

test('a sketch survives storage and ignores case, punctuation, spacing and compatibility forms', () => {
  const one = sketch('Where is my  CARD, please?');
  assert.deepEqual(sketchFrom(sketchBytes(one)), one);
  assert.deepEqual(sketch('where is my card please'), one);
  assert.deepEqual(sketch('ｗｈｅｒｅ is my card — please!'), one);
  assert.equal(similarity(sketch('?!'), sketch('?!')), 0);
  assert.equal(similarity(sketch('ok'), sketch('OK')), 1);
});

const fingerprint = (text: string, group = 'label|intent|card') => ({
  class: group,
  hash: `${group}|${text}`,
  sketch: sketch(text),
});

test('duplicates are found within a unit and a class, never across units', () => {
  const memory = new UnitMemory();
  const text = 'I have been waiting for my new card for more than two weeks now, where is it?';
  memory.add('u:anna', fingerprint(text));
  assert.equal(memory.judge('u:anna', fingerprint(text)), 'duplicate');
  assert.equal(memory.judge('u:anna', fingerprint(text.toUpperCase())), 'near_duplicate');
  assert.equal(memory.judge('u:anna', fingerprint(text.replace('now, ', 'now '))), 'near_duplicate');
  assert.equal(memory.judge('u:anna', fingerprint(`${text} Hello!`)), 'near_duplicate');
  assert.equal(memory.judge('u:anna', fingerprint('Why was I charged a fee for this transfer?')), undefined);
  assert.equal(
    memory.judge('u:anna', fingerprint(text, 'label|intent|delivery')),
    undefined,
    'another label says something else',
  );
  assert.equal(memory.judge('u:bert', fingerprint(text)), undefined);
  assert.equal(memory.judge('u:anna', fingerprint('Send 100 to my savings')), undefined);
  memory.add('u:anna', fingerprint('Send 100 to my savings'));
  assert.equal(
    memory.judge('u:anna', fingerprint('Send 250 to my savings')),
    undefined,
    'another amount is another inquiry',
  );
  assert.ok(NEAR > 0.5 && NEAR < 1);
});

test("the model's own answers are recognised, quoted ones and short ones are not, and only the latest are kept", () => {
  const answer = 'You can order a replacement card in the app. It arrives within five working days and costs nothing.';
  const own = new OwnOutputs(3);
  own.add('resp_1', answer);
  own.add('resp_2', 'Yes.');
  assert.ok(own.resembles(sketch(answer)));
  assert.ok(own.resembles(sketch(`${answer.toLowerCase()}\n`)));
  assert.ok(!own.resembles(sketch('Yes.')));
  const article = `${'Banks are changing the way they replace lost cards, our reporter found out. '.repeat(3)} "${answer}", one of them said.`;
  assert.ok(!own.resembles(sketch(article)));
  for (let n = 3; n < 7; n++)
    own.add(`resp_${n}`, `${'some other answer about the matter '.repeat(2)} ${'abcdefgh'.slice(n)}${n * 7919}`);
  assert.ok(!own.resembles(sketch(answer)), 'forgotten when three newer ones came');
});
