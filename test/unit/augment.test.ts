import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { run } from '../../src/cli/augment.ts';
import { augment, OPERATIONS, openWordNet, type Thesaurus, variantGroups } from '../../src/learn/augment/index.ts';
import { coreOf, cutWords, joinWords, withCore } from '../../src/learn/augment/words.ts';
import { fc, SLOW } from '../support/properties.ts';

const folder = mkdtempSync(join(tmpdir(), 'learnd-augment-'));
test.after(() => rmSync(folder, { recursive: true }));

const small: Thesaurus = {
  synonyms: async word =>
    (({ card: ['board', 'menu'], arrive: ['come', 'get'], late: ['tardy'] }) as Record<string, string[]>)[word] ?? [],
};
const seed = 'a seed';
const TEXT = 'When will my new card arrive? It is a week late\nand I need it to pay for the hotel.';

test('WordNet knows synonyms of base forms, single words only', async () => {
  const wordnet = openWordNet();
  assert.ok((await wordnet.synonyms('buy')).includes('purchase'));
  assert.ok((await wordnet.synonyms('Error')).includes('mistake'));
  assert.ok(!(await wordnet.synonyms('card')).includes('tease'), 'no sense that no tagged text has');
  assert.deepEqual(await wordnet.synonyms('arrive'), ['get', 'come']);
  for (const unknown of ['xyzzyq', '', 'zzzz', 'aaaaaaaa', "don't", 'straße'])
    assert.deepEqual(await wordnet.synonyms(unknown), []);
  assert.deepEqual(await wordnet.synonyms('constructor'), ['builder']);
  for (const word of ['abandon', 'zoom', 'able', 'wrong']) {
    const found = await wordnet.synonyms(word);
    assert.ok(found.length > 0, word);
    for (const synonym of found) assert.match(synonym, /^[a-z]+$/);
  }
});

test('words: what is not changed stays to the character; capitals and punctuation stay with the word', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'grapheme' }), text => {
      assert.equal(joinWords(cutWords(text)), text);
    }),
    { numRuns: 200, ...SLOW },
  );
  assert.equal(withCore('"Card\'s,', 'board'), '"Board,');
  assert.equal(withCore('CARD!', 'board'), 'BOARD!');
  assert.equal(withCore('…', 'board'), '…');
  assert.equal(coreOf('(Überweisung).'), 'überweisung');
});

test('each operation does what it says', async () => {
  const of = async (operation: (typeof OPERATIONS)[number], text = TEXT) =>
    (await augment([text], { seed, operations: [operation], thesaurus: small, count: 5, alpha: 0.05 }))[0]!;
  const words = (text: string) => text.split(/\s+/);
  for (const { text } of await of('synonym')) {
    const changed = words(text).filter((w, i) => w !== words(TEXT)[i]);
    assert.equal(changed.length, 1);
    assert.ok(['board', 'menu', 'come?', 'get?', 'tardy'].includes(changed[0]!), changed[0]);
    assert.ok(text.includes('\n'));
  }
  for (const { text } of await of('insert')) assert.equal(words(text).length, words(TEXT).length + 1);
  for (const { text } of await of('swap')) assert.deepEqual(words(text).sort(), words(TEXT).sort());
  for (const { text } of await of('delete')) {
    assert.ok(words(text).length < words(TEXT).length && words(text).length > 0);
    assert.ok(words(text).every(w => words(TEXT).includes(w)));
  }
  for (const { text } of await of('punctuation')) {
    const marks = words(text).filter(w => /^[.;?:!,]$/.test(w));
    assert.ok(marks.length >= 1 && marks.length <= 6);
    assert.deepEqual(
      words(text).filter(w => !/^[.;?:!,]$/.test(w)),
      words(TEXT),
    );
  }
});

test('seeded: the same for the same seed and text, wherever it stands; another for another', async () => {
  const options = { seed, thesaurus: small, count: 5 };
  const [alone] = await augment([TEXT], options);
  const [, beside] = await augment(['Another text stands here.', TEXT], options);
  assert.deepEqual(
    alone!.map(v => v.text),
    beside!.map(v => v.text),
  );
  assert.deepEqual(
    beside!.map(v => [v.source, v.operation]),
    OPERATIONS.map(o => [1, o]),
  );
  const [other] = await augment([TEXT], { ...options, seed: 'another' });
  assert.notDeepEqual(
    alone!.map(v => v.text),
    other!.map(v => v.text),
  );
});

test('label words are neither changed, moved, deleted nor brought in', async () => {
  const options = { seed, thesaurus: small, count: 25, alpha: 0.5, labels: ['card_arrive', 'menu'] };
  const [group] = await augment([TEXT], options);
  assert.ok(group!.length > 15);
  for (const { text } of group!) {
    const cores = text.split(/\s+/).map(coreOf);
    assert.equal(cores.filter(c => c === 'card').length, 1, text);
    assert.equal(cores.filter(c => c === 'arrive').length, 1, text);
    assert.ok(!cores.includes('menu'), text);
    assert.ok(cores.indexOf('card') < cores.indexOf('arrive'), text);
  }
});

test('groups for private training: the source first, every variant different from it and the others', async () => {
  const groups = await variantGroups([TEXT, 'Hi', ''], { seed, thesaurus: small, count: 8 });
  assert.equal(groups[0]![0], TEXT);
  assert.equal(new Set(groups[0]).size, groups[0]!.length);
  assert.ok(groups[0]!.length > 6);
  assert.equal(groups[1]![0], 'Hi');
  assert.deepEqual(groups[2], ['']);
  await fc.assert(
    fc.asyncProperty(fc.array(fc.string({ unit: 'grapheme' }), { maxLength: 3 }), async texts => {
      const made = await variantGroups(texts, { seed, thesaurus: small });
      assert.deepEqual(
        made.map(group => group[0]),
        texts,
      );
      for (const group of made) assert.equal(new Set(group).size, group.length);
    }),
    { numRuns: 40, ...SLOW },
  );
});

test('the command writes rows and variants with their source, and refuses what it cannot read', async () => {
  const file = join(folder, 'in.csv');
  writeFileSync(
    file,
    'text,category\nWhen will my card arrive?,card_arrival\n"I want, please, to buy euros",exchange\n',
  );
  const out = join(folder, 'out.jsonl');
  const result = await run({ file, out, label: 'category', count: 5, seed: 's' });
  const rows = readFileSync(out, 'utf8')
    .trim()
    .split('\n')
    .map(line => JSON.parse(line));
  assert.equal(rows.length, result.sources + result.variants);
  assert.equal(
    Object.values(result.by_operation).reduce((a, b) => a + b, 0),
    result.variants,
  );
  assert.ok(result.variants >= 6);
  let source = 0;
  for (const row of rows) {
    if (row.augmented === undefined) source++;
    else {
      assert.equal(row.augmented.source, source);
      assert.ok(OPERATIONS.includes(row.augmented.operation));
      assert.equal(row.category, source === 1 ? 'card_arrival' : 'exchange');
      if (source === 1) assert.match(row.text, /card/);
    }
  }
  await assert.rejects(run({ file, out, text: 'body' }), { code: 'invalid', field: 'text', message: /row 1/ });
  await assert.rejects(run({ file, out, label: 'nope' }), { code: 'invalid', field: 'label' });
  await assert.rejects(run({ file, out, operations: 'synonym,rot13' }), { code: 'invalid', field: 'operations' });
  await assert.rejects(augment(['x'], { seed, count: 0 }), { code: 'invalid', field: 'count' });
  await assert.rejects(augment(['x'], { seed, alpha: 2 }), { code: 'invalid', field: 'alpha' });
});
