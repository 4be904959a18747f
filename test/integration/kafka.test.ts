import assert from 'node:assert/strict';
import { fork } from 'node:child_process';
import { join } from 'node:path';
import test, { after, before } from 'node:test';
import kafkajs from 'kafkajs';
import { LearndError } from '../../src/base/errors.ts';
import { createLog } from '../../src/base/log.ts';
import { loadSettings, type Settings } from '../../src/base/settings.ts';
import { TOPICS, TOPICS_IN } from '../../src/events/out.ts';
import { erase, unlessErased } from '../../src/loop/ingest/erasure.ts';
import type { LogMessage } from '../../src/loop/ingest/event-log.ts';
import { type KafkaIntake, startKafkaIntake } from '../../src/loop/ingest/intake.ts';
import { kafkaLog } from '../../src/loop/ingest/kafka.ts';
import { replayDeadLetters } from '../../src/loop/ingest/replay.ts';
import { publishExchanges } from '../../src/loop/publish/exchanges.ts';
import type { Database } from '../../src/store/database.ts';
import { listDeadLetters } from '../../src/store/dead-letters.ts';
import { queueExchange } from '../../src/store/exchange-outbox.ts';
import { saveExchange } from '../../src/store/exchanges.ts';
import { testDatabase } from '../support/database.ts';
import { missingKafka, SASL, startKafka, type TestKafka } from '../support/kafka.ts';

/** The EventLog contract, through the intake, against a real broker. */

const missing = missingKafka();
const secret = Buffer.from('the secret of the test');
const log = createLog({ level: process.env.LEARND_TEST_LOG === 'debug' ? 'debug' : 'error', where: 'test' });
let kafka: TestKafka;
let client: kafkajs.Kafka;
let admin: kafkajs.Admin;
let producer: kafkajs.Producer | undefined;

const clientOf = (brokers: string[]) =>
  new kafkajs.Kafka({ brokers, logLevel: kafkajs.logLevel.NOTHING, retry: { retries: 12, maxRetryTime: 2000 } });

before(async () => {
  if (missing !== undefined) return;
  kafka = await startKafka();
  client = clientOf(kafka.brokers);
  admin = client.admin();
  await admin.connect();
});
after(async () => {
  if (missing !== undefined) return;
  await producer?.disconnect();
  await admin.disconnect();
  await kafka.stop();
});

let count = 0;
const labelEvent = (text: string, more: object = {}) => ({
  specversion: '1.0',
  id: `k${++count}`,
  source: 'test',
  type: 'learnd.feedback.label',
  data: { task: 'intent', text, label: 'card', ...more },
});
async function produce(
  topic: string,
  messages: { key?: string | null; value: unknown; headers?: Record<string, string> }[],
): Promise<void> {
  if (producer === undefined) {
    producer = client.producer({ createPartitioner: kafkajs.Partitioners.DefaultPartitioner });
    await producer.connect();
  }
  await producer.send({
    topic,
    messages: messages.map(({ key, value, headers }) => ({
      key: key ?? null,
      value: typeof value === 'string' || Buffer.isBuffer(value) || value === null ? value : JSON.stringify(value),
      headers: headers ?? {},
    })),
  });
}

/** The topics, empty. */
async function freshTopics(): Promise<void> {
  // A producer that remembers the old partitions would send what it cannot place twice.
  await producer?.disconnect();
  producer = undefined;
  const all = [...TOPICS_IN, TOPICS.dead];
  const there = (await admin.listTopics()).filter(topic => (all as string[]).includes(topic));
  if (there.length > 0) await admin.deleteTopics({ topics: there });
  await until(async () => !(await admin.listTopics()).some(topic => (all as string[]).includes(topic)));
  await admin.createTopics({
    topics: all.map(topic => ({ topic, numPartitions: topic === TOPICS.feedback ? 2 : 1 })),
    waitForLeaders: false,
  });
  await until(async () => {
    // kafkajs reports a topic that the broker is still making as an error.
    const metadata = await admin.fetchTopicMetadata({ topics: all }).catch(() => undefined);
    return metadata?.topics.every(topic => topic.partitions.every(partition => partition.leader >= 0)) ?? false;
  });
}

async function until(condition: () => boolean | Promise<boolean>, seconds = 40): Promise<void> {
  const end = Date.now() + seconds * 1000;
  while (!(await condition())) {
    if (Date.now() > end) throw new Error(`not within ${seconds} s: ${condition}`);
    await new Promise(resolve => setTimeout(resolve, 50));
  }
}

const settingsFor = (more: Record<string, unknown> = {}): Settings =>
  loadSettings({
    env: {},
    cwd: '/nonexistent',
    overrides: {
      tasks: [{ name: 'intent', labels: ['card', 'transfer'] }],
      'kafka.brokers': kafka.brokers,
      'kafka.group_id': `group-${process.pid}-${++count}`,
      ...more,
    },
  });

async function consume(
  t: { after: (fn: () => Promise<void>) => void },
  db: Database,
  settings = settingsFor(),
): Promise<KafkaIntake> {
  const intake = await startKafkaIntake({ db, settings, secret, log });
  t.after(() => intake.stop());
  return intake;
}

const stored = async (db: Database): Promise<string[]> =>
  (await db.query<{ text: string }>('select text from feedback order by text')).rows.map(row => row.text);

/** All there is in a topic from its beginning. */
async function readAll(topic: string): Promise<{ value: string | undefined; headers: Record<string, string> }[]> {
  const expected = (await admin.fetchTopicOffsets(topic)).reduce(
    (sum, { high, low }) => sum + Number(high) - Number(low),
    0,
  );
  const consumer = client.consumer({ groupId: `reader-${process.pid}-${++count}` });
  const messages: { value: string | undefined; headers: Record<string, string> }[] = [];
  await consumer.connect();
  await consumer.subscribe({ topics: [topic], fromBeginning: true });
  await consumer.run({
    eachMessage: async ({ message }) => {
      const headers = Object.entries(message.headers ?? {}).map(([name, value]) => [name, String(value)]);
      messages.push({ value: message.value?.toString(), headers: Object.fromEntries(headers) });
    },
  });
  await until(() => messages.length >= expected);
  await consumer.disconnect();
  return messages;
}

const options = { skip: missing ?? false, timeout: 120_000 };
const ownOnly = () => ({
  ...options,
  skip: missing ?? (process.env.LEARND_TEST_KAFKA_BROKERS !== undefined && 'needs a broker of its own'),
});

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
    await until(async () => (await kept()) > had);
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
    await until(() => intake.totals.accepted === 1 && intake.totals.dead === 7, 15);
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

test('the broker dies and comes back: said so, waited for, nothing lost', ownOnly(), async t => {
  await freshTopics();
  const db = await testDatabase(t);
  const intake = await consume(t, db);
  await produce(TOPICS.feedback, [{ value: labelEvent('before') }]);
  await until(() => intake.totals.accepted === 1);
  await kafka.own!.kill();
  await until(() => intake.log.state === 'reconnecting');
  const message: LogMessage = { key: 'k', value: 'v' };
  const started = Date.now();
  await assert.rejects(
    intake.log.publish(TOPICS.announcements, [message]),
    (error: LearndError) => error.code === 'dependency' && error.retriable && /cannot publish/.test(error.message),
  );
  assert.ok(Date.now() - started < 30_000);
  await kafka.own!.start();
  await until(() => intake.log.state === 'connected', 60);
  await produce(TOPICS.feedback, [{ value: labelEvent('after') }]);
  await until(() => intake.totals.accepted === 2);
  await admin.createTopics({ topics: [{ topic: TOPICS.announcements }], waitForLeaders: false });
  await intake.log.publish(TOPICS.announcements, [message]);
  assert.deepEqual(
    (await readAll(TOPICS.announcements)).map(one => one.value),
    ['v'],
  );
});

test('the database is away: the batch waits, nothing is lost, nothing twice', options, async t => {
  await freshTopics();
  const db = await testDatabase(t);
  let away = true;
  const flaky: Database = Object.assign(Object.create(db) as Database, {
    tx: ((work, how) => {
      if (away) throw new LearndError('dependency', 'PostgreSQL is away');
      return db.tx(work, how);
    }) as Database['tx'],
  });
  const intake = await consume(t, flaky);
  await produce(TOPICS.feedback, [{ value: labelEvent('waits') }]);
  await new Promise(resolve => setTimeout(resolve, 4000));
  assert.deepEqual(await stored(db), []);
  away = false;
  await until(() => intake.totals.accepted === 1);
});

test(
  'exchanges are published when asked for, each once while nothing fails; an erased one is not',
  options,
  async t => {
    if ((await admin.listTopics()).includes(TOPICS.exchanges)) await admin.deleteTopics({ topics: [TOPICS.exchanges] });
    await until(async () => !(await admin.listTopics()).includes(TOPICS.exchanges));
    const db = await testDatabase(t);
    const save = (responseId: string, user: string | undefined, createdAt: number) =>
      unlessErased(db, secret, user, async tx => {
        await saveExchange(tx, {
          responseId,
          previousResponseId: undefined,
          version: 'learnd@1',
          api: 'responses',
          instructions: undefined,
          input: [{ role: 'user', content: 'ping' }],
          output: `pong ${responseId}`,
          status: 'completed',
          incompleteReason: undefined,
          user,
          metadata: {},
          inputTokens: 1,
          outputTokens: 2,
          createdAt,
          latencyMs: 1,
          firstTokenMs: 1,
        });
        await queueExchange(tx, responseId);
      });
    await save('resp_2', 'bert', 2000);
    await save('resp_1', undefined, 1000);
    await save('resp_3', 'anna', 3000);
    await erase(db, { user: 'anna', secret });
    const eventLog = kafkaLog(settingsFor().kafka, { log });
    const publish = (topic: string, key: string, value: string) => eventLog.publish(topic, [{ key, value }]);
    assert.equal(await publishExchanges(db, { publish }, { name: 'learnd' }), 2);
    assert.equal(await publishExchanges(db, { publish }, { name: 'learnd' }), 0);
    const published = (await readAll(TOPICS.exchanges)).map(message => JSON.parse(message.value!));
    assert.deepEqual(published.map(event => [event.id, event.type, event.data.output, event.data.user]).sort(), [
      ['resp_1', 'learnd.exchange', 'pong resp_1', undefined],
      ['resp_2', 'learnd.exchange', 'pong resp_2', 'bert'],
    ]);
    // A broker that is away: they wait.
    await save('resp_4', undefined, 4000);
    await eventLog.close();
    await assert.rejects(publishExchanges(db, { publish }, { name: 'learnd' }), /closed/);
    assert.equal((await db.query('select response_id from exchange_outbox')).rowCount, 1);
  },
);

test('SASL over TLS by each mechanism; a wrong password is said and waited with', ownOnly(), async t => {
  await freshTopics();
  const { brokers, ca } = kafka.own!.secure;
  const secure = {
    'kafka.brokers': brokers,
    'kafka.tls': true,
    'kafka.tls_ca': ca,
    'kafka.sasl_username': SASL.username,
    'kafka.sasl_password': SASL.password,
  };
  let n = 0;
  for (const mechanism of ['plain', 'scram-sha-256', 'scram-sha-512']) {
    const db = await testDatabase(t);
    const intake = await consume(t, db, settingsFor({ ...secure, 'kafka.sasl_mechanism': mechanism }));
    await intake.log.publish(TOPICS.feedback, [{ key: 'anna', value: JSON.stringify(labelEvent(`by ${mechanism}`)) }]);
    n++;
    await until(() => intake.totals.accepted === n);
    await intake.stop();
  }
  const wrong = await consume(
    t,
    await testDatabase(t),
    settingsFor({ ...secure, 'kafka.sasl_mechanism': 'plain', 'kafka.sasl_password': 'no' }),
  );
  await assert.rejects(
    wrong.log.publish(TOPICS.feedback, [{ key: null, value: 'x' }]),
    /Kafka: cannot publish.*[Aa]uthentication/,
  );
  assert.equal(wrong.log.state, 'reconnecting');
  await wrong.stop();
  const stranger = await consume(
    t,
    await testDatabase(t),
    settingsFor({ ...secure, 'kafka.sasl_mechanism': 'plain', 'kafka.tls_ca': undefined }),
  );
  await assert.rejects(stranger.log.publish(TOPICS.feedback, [{ key: null, value: 'x' }]), /certificate/);
  await stranger.stop();
  await assert.rejects(
    startKafkaIntake({
      db: await testDatabase(t),
      settings: settingsFor({ 'kafka.sasl_mechanism': 'plain' }),
      secret,
      log,
    }),
    /kafka\.sasl_username/,
  );
});

test('batches compressed by the Java producer are read: gzip, snappy, lz4', ownOnly(), async t => {
  await freshTopics();
  const db = await testDatabase(t);
  const intake = await consume(t, db);
  const codecs = ['gzip', 'snappy', 'lz4', ...(Number(process.versions.node.split('.')[0]) >= 24 ? ['zstd'] : [])];
  for (const codec of codecs) {
    const lines = Array.from({ length: 200 }, (_, i) =>
      JSON.stringify(labelEvent(`${codec} ${i} where is my card `.repeat(8))),
    );
    kafka.own!.tool(
      'org.apache.kafka.tools.ConsoleProducer',
      [
        '--bootstrap-server',
        kafka.brokers[0]!,
        '--topic',
        TOPICS.feedback,
        '--compression-codec',
        codec,
        '--batch-size',
        '65536',
      ],
      `${lines.join('\n')}\n`,
    );
  }
  await until(() => intake.totals.accepted === 200 * codecs.length);
});
