import assert from 'node:assert/strict';
import test from 'node:test';
import type { LearndError } from '../../src/base/errors.ts';
import { TOPICS } from '../../src/events/out.ts';
import { erase, unlessErased } from '../../src/loop/ingest/erasure.ts';
import type { LogMessage } from '../../src/loop/ingest/event-log.ts';
import { startKafkaIntake } from '../../src/loop/ingest/intake.ts';
import { kafkaLog } from '../../src/loop/ingest/kafka.ts';
import { publishExchanges } from '../../src/loop/publish/exchanges.ts';
import { queueExchange } from '../../src/store/exchange-outbox.ts';
import { saveExchange } from '../../src/store/exchanges.ts';
import { testDatabase } from '../support/database.ts';
import { SASL } from '../support/kafka.ts';
import {
  admin,
  consume,
  freshTopics,
  kafka,
  labelEvent,
  log,
  options,
  ownOnly,
  produce,
  readAll,
  secret,
  settingsFor,
  until,
} from '../support/kafka-intake.ts';

/** The broker's side of the EventLog contract: a connection that breaks, SASL and TLS, compressed batches, publishing. */

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
