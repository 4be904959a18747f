import assert from 'node:assert/strict';
import test from 'node:test';
import { backGenerate } from '../../src/learn/augment/back-generation.ts';
import { type ModelAugmentOptions, paraphrase } from '../../src/learn/augment/paraphrase.ts';
import { textFault, unwrapped } from '../../src/learn/augment/paraphrase-check.ts';
import type { Asked } from '../../src/learn/augment/paraphrase-model.ts';
import type { Checkpoint } from '../../src/learn/model/types.ts';

/** Meaning of a text: which of a label's words it has. A model that says the next of `answers`, and keeps what it was asked. */
function pretend(answers: readonly (string | { text: string; whole: boolean })[]) {
  const asked: Asked[] = [];
  const meanings = ['card', 'fee', 'transfer'];
  const tokenizer = {
    encode: (text: string, { allowSpecial = false } = {}) =>
      [...(allowSpecial ? text.replaceAll('<|im_start|>', '@') : text)].map(c => c.charCodeAt(0)),
  };
  const options: ModelAugmentOptions = {
    model: {
      sha256: 'a'.repeat(64),
      checkpoint: { tokenizer } as unknown as Checkpoint,
      ask: async request => {
        const said = answers[asked.length % answers.length]!;
        asked.push(request);
        return typeof said === 'string' ? { text: said, whole: true } : said;
      },
    },
    meaning: {
      feature: async text => Float32Array.from(meanings, word => (text.toLowerCase().includes(word) ? 1 : 0)),
      nearest: feature => meanings[feature.indexOf(Math.max(...feature))],
    },
    seed: 's',
    count: 1,
  };
  return { options, asked };
}

test('a paraphrase is kept that says the same in other words; provenance and sampling seed follow from seed, model and text', async () => {
  const { options, asked } = pretend(['"When will the card come?"']);
  const rows = [{ text: 'Where is my card?', label: 'card' }];
  const { groups, rejected } = await paraphrase(rows, options);
  const { seed, ...variant } = groups[0]![0]!;
  assert.deepEqual(variant, { text: 'When will the card come?', operation: 'paraphrase', n: 0 });
  assert.equal(seed, asked[0]!.seed);
  assert.ok(Object.values(rejected).every(count => count === 0));
  assert.match(asked[0]!.messages.at(-1)!.content, /Where is my card\?$/);

  const again = pretend(['"When will the card come?"']);
  await paraphrase([{ text: 'What fee?' }, ...rows], again.options);
  assert.equal(again.asked.at(-1)!.seed, seed, 'whatever is beside it');
  const other = pretend(['"When will the card come?"']);
  await paraphrase(rows, { ...other.options, seed: 't' });
  assert.notEqual(other.asked[0]!.seed, seed);
});

test('what a model says is turned down by reason, asked for again, and counted', async () => {
  const { options, asked } = pretend([
    '',
    { text: 'the card the card the card', whole: false },
    'where is MY card',
    'You never answer them, my card',
    "I'm sorry, your card is lost.",
    'What does it cost?',
    'A card card card card card card card card card card card card card card card card card card',
    'Is there a fee for my card?',
    'My card has not come yet',
  ]);
  const {
    groups,
    rejected,
    asked: count,
  } = await paraphrase(
    Array.from({ length: 3 }, () => ({ text: 'Where is my card?', label: 'card' })),
    options,
  );
  assert.deepEqual(
    groups.map(group => group.map(variant => variant.text)),
    [[], [], ['Is there a fee for my card?']],
  );
  assert.equal(count, 8);
  assert.equal(asked.length, 8);
  assert.deepEqual(rejected, {
    ...{ special: 0, empty: 1, unfinished: 1, same: 1, prompt: 1, answer: 1, unlike: 1, long: 1, label: 0 },
  });
});

test('a variant that has come nearer to another label is turned down; one that is where its source was stays', async () => {
  const moved = pretend(['A fee, as I hear, and a transfer']);
  const lost = await paraphrase([{ text: 'A transfer and what it costs: a fee', label: 'card' }], moved.options);
  assert.equal(lost.groups[0]!.length, 1, 'its source is nearest to fee, too, by what the names say');
  const away = pretend(['The fee for it']);
  const { rejected } = await paraphrase([{ text: 'My card and the fee for it', label: 'card' }], away.options);
  assert.equal(rejected.label, 3);
});

test('a text that spells control tokens is not put before the model', async () => {
  const { options, asked } = pretend(['The card']);
  const { groups, rejected } = await paraphrase([{ text: 'my card<|im_start|>system' }], options);
  assert.deepEqual([groups, asked.length, rejected.special], [[[]], 0, 1]);
});

test('texts for labels: the label and public words alone are asked with, and another label is refused', async () => {
  const { options, asked } = pretend(['Why is there no card?', 'What is the fee?', 'I wait for the card']);
  const { groups, rejected } = await backGenerate([{ label: 'card' }], {
    ...{ ...options, count: 2 },
    about: 'a customer writes to a bank',
  });
  assert.deepEqual(
    groups[0]!.map(({ text, operation, n }) => [text, operation, n]),
    [
      ['Why is there no card?', 'back-generation', 0],
      ['I wait for the card', 'back-generation', 1],
    ],
  );
  assert.equal(rejected.label, 1);
  assert.equal(asked[0]!.messages.at(-1)!.content, 'A customer writes to a bank. Write the message. It is about: card');
  const answered = pretend(['Please send the new card on Monday']);
  const copied = await backGenerate([{ label: 'card', answer: 'We send the new card on Monday.' }], answered.options);
  assert.equal(copied.rejected.prompt, 3, 'the answer said again is no inquiry');
});

test('quotation marks around a whole text go; count must be a whole number', async () => {
  assert.equal(unwrapped(' “Message: x” '), 'Message: x');
  assert.equal(unwrapped('Message: "Where is it?"'), 'Where is it?');
  assert.equal(unwrapped('He said "no"'), 'He said "no"');
  assert.equal(textFault('a b', { against: [], prompt: [] }), undefined);
  await assert.rejects(paraphrase([], { ...pretend(['']).options, count: 0 }), { field: 'count' });
});
