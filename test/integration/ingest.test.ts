import assert from 'node:assert/strict';
import test from 'node:test';
import { silentLog } from '../../src/base/log.ts';
import { splitOf } from '../../src/loop/curate/split.ts';
import { erase } from '../../src/loop/ingest/erasure.ts';
import { matchLate } from '../../src/loop/ingest/late.ts';
import { ingestRecords } from '../../src/loop/ingest/records.ts';
import { storedOffsets } from '../../src/store/offsets.ts';
import { eventCounts, waitingCounts } from '../../src/store/status.ts';
import { testDatabase } from '../support/database.ts';
import { document, event, exchange, label, rows, secret, send, settings } from '../support/ingest.ts';

test('valid events are stored, invalid ones refused one by one, repeated ones counted', async t => {
  const db = await testDatabase(t);
  const good = label('Where is my new card?', {}, 'one');
  const first = await send(db, [
    good,
    { ...good, data: { ...good.data, colour: 'red' } },
    good,
    document('A first text about nothing in particular.', {
      title: 'First',
      consent: ['training'],
      region: 'EU',
      license: 'CC0-1.0',
    }),
    'nonsense',
  ]);
  assert.deepEqual(first, {
    accepted: 2,
    duplicates: 1,
    rejected: [
      { index: 1, field: 'data.colour', reason: 'unknown field colour' },
      { index: 4, field: '', reason: 'an event must be a JSON object (CloudEvents 1.0)' },
    ],
  });
  assert.deepEqual(await send(db, [good]), { accepted: 0, duplicates: 1, rejected: [] });
  assert.deepEqual(await eventCounts(db), { feedback: 1, documents: 1, dead: 0 });
  const [stored] = await rows(db, 'feedback');
  assert.equal(stored!.unit, 'u:anna');
  assert.equal(stored!.text, 'Where is my new card?');
  assert.equal(stored!.excluded, null);
  assert.equal(stored!.split, splitOf(secret, 'u:anna', 0.2));
  const [doc] = await rows(db, 'documents');
  assert.deepEqual(doc!.consent, ['training']);
  assert.match(doc!.unit as string, /^e:\d+$/);
  assert.equal(doc!.public, false);
});

test('a path takes its own family only, and a batch no more than its limit', async t => {
  const db = await testDatabase(t);
  const report = await send(db, [label('x'), event('learnd.erasure', { user: 'anna' })], { kind: 'feedback' });
  assert.equal(report.accepted, 1);
  assert.deepEqual(report.rejected, [
    { index: 1, field: 'type', reason: 'learnd.erasure does not belong to feedback' },
  ]);
  await assert.rejects(
    send(
      db,
      Array.from({ length: 1001 }, () => label('x')),
    ),
    (error: Error & { code: string }) => error.code === 'too_large' && /1001.*1000/.test(error.message),
  );
});

test('curation: undeclared labels, repetitions within a user, redaction, public sources', async t => {
  const db = await testDatabase(t);
  const text = 'My card was swallowed by the machine in the station hall, what should I do now?';
  await send(db, [label(text), label('hello', { label: 'greeting' }), label('hello', { task: 'mood' })]);
  await send(db, [
    label(text),
    label(text.toLowerCase()),
    label(text, { label: 'transfer' }),
    label(text, { user: 'bert' }),
    label('Reach me at anna@example.com or +49 30 901820', { user: 'carl' }),
    document('Shares rose.', { source: 'newsroom' }),
    document('Shares rose.', { source: 'newsroom' }),
    document('Shares rose.'),
    document('Shares rose.'),
  ]);
  const feedback = await rows(db, 'feedback');
  assert.deepEqual(
    feedback.map(row => row.excluded),
    [null, 'undeclared', 'undeclared', 'duplicate', 'near_duplicate', null, null, null],
  );
  assert.equal(feedback[7]!.text, 'Reach me at [email] or [phone]');
  const documents = await rows(db, 'documents');
  assert.deepEqual(
    documents.map(row => [row.public, row.excluded]),
    [
      [true, null],
      [true, 'duplicate'],
      [false, null],
      [false, null],
    ],
  );
  assert.equal(new Set(documents.map(row => row.split)).size, 1, 'equal texts stand on one side');
  assert.deepEqual((await waitingCounts(db)).excluded, { duplicate: 2, near_duplicate: 1, undeclared: 2 });
});

test('feedback by response_id inherits user, prompt and text; unknown ones and foreign ones are not trained on', async t => {
  const db = await testDatabase(t);
  const messages = [
    { role: 'system', content: 'Be kind.' },
    { role: 'user', content: 'Where is my card? Mail me: a@example.com' },
  ];
  await exchange(db, 'resp_1', 'anna', messages, 'On its way.');
  await exchange(
    db,
    'resp_2',
    null,
    [
      {
        role: 'user',
        content: [
          { type: 'input_text', text: 'And ' },
          { type: 'input_text', text: 'now?' },
        ],
      },
    ],
    'Later.',
  );
  const bare = (type: string, data: object) => event(`learnd.feedback.${type}`, data);
  await send(db, [
    bare('rating', { response_id: 'resp_1', value: 1 }),
    bare('label', { response_id: 'resp_1', task: 'intent', label: 'card' }),
    bare('correction', { response_id: 'resp_2', ideal: 'Tomorrow.', user: 'bert' }),
    bare('rating', { response_id: 'resp_1', value: -1, user: 'mallory' }),
    bare('label', { response_id: 'resp_9', task: 'intent', label: 'card', user: 'anna' }),
    bare('rating', { response_id: 'resp_9', value: 1 }),
    bare('label', { response_id: 'resp_9', task: 'intent', label: 'card', user: 'anna', text: 'my own words' }),
  ]);
  const stored = await rows(db, 'feedback');
  assert.deepEqual(
    stored.map(row => [row.kind, row.user_id, row.prompt, row.text, row.excluded]),
    [
      ['rating', 'anna', 'Where is my card? Mail me: [email]', 'On its way.', null],
      ['label', 'anna', null, 'Where is my card? Mail me: [email]', null],
      ['correction', 'bert', 'And now?', null, null],
      ['rating', 'mallory', null, null, 'other_user'],
      ['label', 'anna', null, null, 'unmatched'],
      ['rating', null, null, null, 'unmatched'],
      ['label', 'anna', null, 'my own words', null],
    ],
  );

  assert.equal(await matchLate(db, settings, secret), 0);
  await exchange(db, 'resp_9', 'anna', [{ role: 'user', content: 'It is late.' }], 'Yes, it is.');
  assert.equal(await matchLate(db, settings, secret), 2);
  const late = (await rows(db, 'feedback')).slice(4, 6);
  assert.deepEqual(
    late.map(row => [row.unit, row.text, row.prompt, row.excluded]),
    [
      ['u:anna', 'It is late.', null, null],
      ['u:anna', 'Yes, it is.', 'It is late.', null],
    ],
  );
  assert.equal(await matchLate(db, settings, secret), 0);
});

test("the model's own output does not come back as a document", async t => {
  const db = await testDatabase(t);
  const answer = 'You can order a new card in the app; it arrives within five working days at no cost.';
  await exchange(db, 'resp_1', null, 'Where?', ` ${answer} `);
  await send(db, [
    document(answer),
    document(answer.toUpperCase()),
    document('Something a person wrote about cards and apps.'),
  ]);
  await exchange(db, 'resp_2', null, 'Short?', 'Yes.');
  await send(db, [document('Yes.'), document('No.')]);
  assert.deepEqual(
    (await rows(db, 'documents')).map(row => row.excluded),
    ['own_output', 'own_output', null, 'own_output', null],
  );
});

test('one record that the database refuses becomes a dead letter; its neighbours are stored; old records are passed over', async t => {
  const db = await testDatabase(t);
  // A refusal that no check foresaw.
  await db.query(`alter table feedback add constraint unforeseen check (text <> 'trap 3')`);
  const records = Array.from({ length: 6 }, (_, i) => ({
    topic: 'learnd.feedback',
    partition: 0,
    offset: 10 + i,
    key: Buffer.from('anna'),
    value: Buffer.from(JSON.stringify(label(`trap ${i}`))),
    headers: {},
  }));
  const announced: string[] = [];
  const context = {
    db,
    settings,
    secret,
    log: silentLog,
    publish: async (topic: string, messages: readonly { headers?: Readonly<Record<string, string>> }[]) => {
      announced.push(...messages.map(message => `${topic} ${message.headers!['learnd-offset']}`));
    },
  };
  assert.deepEqual(await ingestRecords(context, records), { accepted: 5, duplicates: 0, dead: 1, erased: 0 });
  const { rows: letters } = await db.query<{ offset: number; reason: string }>(
    'select "offset", reason from dead_letters',
  );
  assert.deepEqual(
    letters.map(letter => letter.offset),
    [13],
  );
  assert.match(letters[0]!.reason, /the database refused it: .*unforeseen/);
  assert.deepEqual(announced, ['learnd.dead 13']);
  assert.deepEqual(await ingestRecords(context, records.slice(2)), { accepted: 0, duplicates: 4, dead: 0, erased: 0 });
  // Another producer sends the same event under a new offset: the key is what counts.
  assert.deepEqual(await ingestRecords(context, [{ ...records[0]!, offset: 16 }]), {
    accepted: 0,
    duplicates: 1,
    dead: 0,
    erased: 0,
  });
  assert.deepEqual(await storedOffsets(db), [{ topic: 'learnd.feedback', partition: 0, next: 17 }]);
  await erase(db, { user: 'anna', secret });
  const late = { ...records[0]!, offset: 17, value: Buffer.from('{"data": anna') };
  assert.equal((await ingestRecords(context, [late])).dead, 1);
  const { rows: kept } = await db.query('select payload, key from dead_letters');
  assert.deepEqual(
    kept,
    [
      { payload: null, key: null },
      { payload: null, key: null },
    ],
    "an erased user's letters keep no content",
  );
});

test('the same events sent by many at once are stored once', async t => {
  const db = await testDatabase(t);
  const events = Array.from({ length: 200 }, (_, i) => label(`text number ${i}`, { user: `u${i % 17}` }));
  const reports = await Promise.all(
    Array.from({ length: 6 }, (_, n) => send(db, n % 2 === 0 ? events : [...events].reverse())),
  );
  assert.equal(
    reports.reduce((sum, report) => sum + report.accepted, 0),
    200,
  );
  assert.equal(
    reports.reduce((sum, report) => sum + report.duplicates, 0),
    1000,
  );
  assert.equal((await rows(db, 'feedback')).length, 200);
});

test('batches of 1,000 pass at 2,000 events a second at least', async t => {
  const db = await testDatabase(t);
  const batch = (n: number) =>
    Array.from({ length: 1000 }, (_, i) =>
      label(`Why was the payment number ${n * 1000 + i} to my landlord declined on the ${i % 28}th?`, {
        user: `user ${i % 300}`,
      }),
    );
  await send(db, batch(99));
  // One batch that is fast enough shows what ingest can do; the others say what else the machine was doing.
  let fastest = Number.POSITIVE_INFINITY;
  for (let n = 0; n < 30 && fastest > 500; n++) {
    const started = performance.now();
    assert.equal((await send(db, batch(n))).accepted, 1000);
    fastest = Math.min(fastest, performance.now() - started);
  }
  const rate = 1000 / (fastest / 1000);
  t.diagnostic(`${rate.toFixed(0)} events/s`);
  assert.ok(rate >= 2000, `${rate.toFixed(0)} events/s`);
});
