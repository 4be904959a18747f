import assert from 'node:assert/strict';
import { fork } from 'node:child_process';
import { join } from 'node:path';
import test from 'node:test';
import { LearndError } from '../../src/base/errors.ts';
import type { Settings } from '../../src/base/settings.ts';
import { TOPICS } from '../../src/events/out.ts';
import { startKafkaIntake } from '../../src/loop/ingest/intake.ts';
import { replayDeadLetters } from '../../src/loop/ingest/replay.ts';
import type { Database } from '../../src/store/database.ts';
import { listDeadLetters } from '../../src/store/dead-letters.ts';
import { testDatabase } from '../support/database.ts';
import {
  admin,
  consume,
  freshTopics,
  kafka,
  labelEvent,
  log,
  options,
  produce,
  readAll,
  secret,
  settingsFor,
  stored,
  until,
} from '../support/kafka-intake.ts';

/** The EventLog contract, through the intake, against a real broker: what is consumed is stored once, wherever it stops. */

test('events of all three topics are stored; topics are made when missing; lag is told', options, async t => {
  const db = await testDatabase(t);
  const there = await admin.listTopics();
  if (there.includes(TOPICS.feedback)) await freshTopics();
  const intake = await consume(t, db);
  await until(() => intake.log.state === 'connected');
  await until(async () => (await admin.listTopics()).includes(TOPICS.erasures));
  await produce(TOPICS.feedback, [
    { key: 'anna', value: labelEvent('by key') },
    { key: 'anna', value: labelEvent('by name', { user: 'bert' }) },
    {
      key: 'carl',
      value: JSON.stringify({ task: 'intent', text: 'binary mode', label: 'card' }),
      headers: {
        ce_specversion: '1.0',
        ce_id: 'b1',
        ce_source: 'test',
        ce_type: 'learnd.feedback.label',
        traceparent: '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01',
      },
    },
  ]);
  await produce(TOPICS.documents, [
    { value: { ...labelEvent(''), type: 'learnd.document', data: { text: 'A document.', source: 'wire' } } },
  ]);
  await until(() => intake.totals.accepted === 4);
  const { rows } = await db.query(
    'select f.text, f.unit, e.trace_parent from feedback f join events e on e.id = f.event order by f.text',
  );
  assert.deepEqual(rows, [
    { text: 'binary mode', unit: 'u:carl', trace_parent: '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01' },
    { text: 'by key', unit: 'u:anna', trace_parent: null },
    { text: 'by name', unit: 'u:bert', trace_parent: null },
  ]);
  assert.deepEqual(await intake.log.lag(), { [TOPICS.feedback]: 0, [TOPICS.documents]: 0, [TOPICS.erasures]: 0 });

  await produce(TOPICS.erasures, [{ key: 'bert', value: { type: 'learnd.erasure', data: { user: 'bert' } } }]);
  await until(() => intake.totals.accepted === 5);
  await produce(TOPICS.feedback, [{ key: 'bert', value: labelEvent('again') }]);
  await until(() => intake.totals.erased === 1);
  assert.deepEqual(await stored(db), ['binary mode', 'by key']);
  assert.equal((await listDeadLetters(db, 10)).length, 0, 'an erased user is no dead letter');

  await intake.stop();
  assert.equal(intake.log.state, 'closed');
  await produce(TOPICS.feedback, [{ value: labelEvent('one') }, { value: labelEvent('two') }]);
  const next = await startKafkaIntake({ db, settings: settingsFor({ 'kafka.brokers': ['127.0.0.1:1'] }), secret, log });
  await assert.rejects(next.log.lag(), (error: LearndError) => error.code === 'dependency');
  assert.equal(next.log.state, 'reconnecting');
  await next.stop();
});

test('a consumer killed in the middle and started again: everything once', options, async t => {
  await freshTopics();
  const db = await testDatabase(t);
  const total = 6000;
  const events = Array.from({ length: total }, (_, i) => ({
    key: `u${i % 50}`,
    value: labelEvent(`text number ${i}`),
  }));
  for (let i = 0; i < total; i += 2000) await produce(TOPICS.feedback, events.slice(i, i + 2000));
  const kept = async () => (await db.query<{ n: number }>('select count(*) as n from feedback')).rows[0]!.n;
  const run = () =>
    fork(join(import.meta.dirname, '../support/intake_child.ts'), [db.url, kafka.brokers.join(','), String(secret)], {
      execArgv: ['--import', 'tsx'],
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
    });
  for (let kill = 0; kill < 2; kill++) {
    const had = await kept();
    const child = run();
    const gone = new Promise(resolve => child.once('exit', resolve));
    await until(async () => (await kept()) > had || had === total);
    child.kill('SIGKILL');
    await gone;
    t.diagnostic(`killed with ${await kept()} of ${total} stored`);
    // Its membership is still alive for the broker; a consumer of another group goes on from Postgres at once.
  }
  const intake = await consume(t, db);
  await until(async () => (await kept()) === total);
  assert.equal(new Set(await stored(db)).size, total);
  await until(async () => Object.values(await intake.log.lag()).every(lag => lag === 0));
});

test(
  'poison: dead letters with their reason, in the store and on learnd.dead; the rest goes on; a replay',
  options,
  async t => {
    await freshTopics();
    const db = await testDatabase(t);
    const settings = settingsFor();
    const large = Buffer.alloc(50 << 20, 'x');
    await produce(TOPICS.documents, [
      { value: 'not json {' },
      { key: 'anna', value: { type: 'learnd.document', data: { text: 'x', source: 's', colour: 1 } } },
      { value: null },
      { value: Buffer.from([0x7b, 0xff, 0x7d]) },
      { value: labelEvent('wrong topic') },
      {
        value: { type: 'learnd.document', id: 'long', source: 'test', data: { text: 'y'.repeat(70_000), source: 's' } },
      },
    ]);
    await produce(TOPICS.documents, [{ value: large }]);
    await produce(TOPICS.documents, [{ value: { type: 'learnd.document', data: { text: 'good', source: 's' } } }]);
    const intake = await consume(t, db, settings);
    await until(() => intake.totals.accepted === 1 && intake.totals.dead === 7);
    const letters = (await listDeadLetters(db, 100)).sort((a, b) => a.offset - b.offset);
    assert.deepEqual(
      letters.map(letter => [letter.offset, letter.field, letter.reason]),
      [
        [0, '', 'the message is not JSON'],
        [1, 'data.colour', 'unknown field colour'],
        [2, '', 'the message is empty'],
        [3, '', 'the message is not UTF-8'],
        [4, 'type', 'learnd.feedback.label does not belong to documents'],
        [5, 'data.text', 'text is 70000 bytes, the limit is 65536'],
        [6, '', 'the message is 52428800 bytes, the limit is 1048576'],
      ],
    );
    assert.equal(letters[6]!.payload, null, 'too large to keep');
    assert.equal(letters[0]!.payload?.toString(), 'not json {');
    const dead = await readAll(TOPICS.dead);
    assert.deepEqual(
      dead.map(message => message.headers['learnd-reason']).sort(),
      letters.map(letter => letter.reason).sort(),
    );

    const raised: Settings = { ...settings, limits: { ...settings.limits, text_bytes: 100_000 } };
    assert.deepEqual(await replayDeadLetters(db, raised, secret), { replayed: 1, accepted: 1, dead: 4 });
    assert.deepEqual(await replayDeadLetters(db, raised, secret), { replayed: 0, accepted: 0, dead: 4 });
    assert.equal((await db.query('select id from documents')).rowCount, 2);
  },
);

test(
  'Postgres says where to read on: a restored database reads again, a topic made anew is read from its beginning',
  options,
  async t => {
    await freshTopics();
    const db = await testDatabase(t);
    const settings = settingsFor();
    await produce(
      TOPICS.feedback,
      Array.from({ length: 20 }, (_, i) => ({ key: `u${i}`, value: labelEvent(`old ${i}`) })),
    );
    const first = await consume(t, db, settings);
    await until(() => first.totals.accepted === 20);
    await first.stop();
    // As a backup taken before the last events would have it; the broker still knows the later offsets.
    await db.query('delete from feedback');
    await db.query('delete from events');
    await db.query('update kafka_offsets set next_offset = 0');
    const second = await consume(t, db, settings);
    await until(() => second.totals.accepted === 20);
    await second.stop();

    await freshTopics();
    await produce(TOPICS.feedback, [{ value: labelEvent('new') }]);
    const third = await consume(t, db, settings);
    await until(() => third.totals.accepted === 1);
  },
);

test('two consumers that share the partitions, one leaving in the middle: everything once', options, async t => {
  await freshTopics();
  const db = await testDatabase(t);
  const settings = settingsFor();
  const [one, two] = [await consume(t, db, settings), await consume(t, db, settings)];
  const total = 3000;
  const sending = (async () => {
    for (let i = 0; i < total; i += 100)
      await produce(
        TOPICS.feedback,
        Array.from({ length: 100 }, (_, k) => ({ key: `u${(i + k) % 97}`, value: labelEvent(`text ${i + k}`) })),
      );
  })();
  await until(() => one.totals.accepted + two.totals.accepted > 500);
  await one.stop();
  await sending;
  await until(async () => (await stored(db)).length === total, 60);
  assert.equal(new Set(await stored(db)).size, total);
  t.diagnostic(`${one.totals.accepted} + ${two.totals.accepted}`);
});

test('the database is away: the batch waits, nothing is lost, nothing twice', options, async t => {
  await freshTopics();
  const db = await testDatabase(t);
  let away = true;
  let refused = 0;
  const flaky: Database = Object.assign(Object.create(db) as Database, {
    tx: ((work, how) => {
      if (!away) return db.tx(work, how);
      refused++;
      throw new LearndError('dependency', 'PostgreSQL is away');
    }) as Database['tx'],
  });
  const intake = await consume(t, flaky);
  await produce(TOPICS.feedback, [{ value: labelEvent('waits') }]);
  await until(() => refused >= 2);
  assert.deepEqual(await stored(db), []);
  away = false;
  await until(() => intake.totals.accepted === 1);
});
