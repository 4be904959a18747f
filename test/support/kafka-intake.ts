import { after, before, type TestContext } from 'node:test';
import kafkajs from 'kafkajs';
import { createLog } from '../../src/base/log.ts';
import { loadSettings, type Settings } from '../../src/base/settings.ts';
import { TOPICS, TOPICS_IN } from '../../src/events/out.ts';
import { type KafkaIntake, startKafkaIntake } from '../../src/loop/ingest/intake.ts';
import type { Database } from '../../src/store/database.ts';
import { missingKafka, startKafka, type TestKafka } from './kafka.ts';

/** A broker for a test file's tests, with what they all need: a producer, an admin client, an intake that is stopped after its test. */

const missing = missingKafka();
export const secret = Buffer.from('the secret of the test');
export const log = createLog({ level: process.env.LEARND_TEST_LOG === 'debug' ? 'debug' : 'error', where: 'test' });
export let kafka: TestKafka;
export let admin: kafkajs.Admin;
let client: kafkajs.Kafka;
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
export const labelEvent = (text: string, more: object = {}) => ({
  specversion: '1.0',
  id: `k${++count}`,
  source: 'test',
  type: 'learnd.feedback.label',
  data: { task: 'intent', text, label: 'card', ...more },
});
export async function produce(
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
export async function freshTopics(): Promise<void> {
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

export async function until(condition: () => boolean | Promise<boolean>, seconds = 40): Promise<void> {
  const end = Date.now() + seconds * 1000;
  while (!(await condition())) {
    if (Date.now() > end) throw new Error(`not within ${seconds} s: ${condition}`);
    await new Promise(resolve => setTimeout(resolve, 50));
  }
}

export const settingsFor = (more: Record<string, unknown> = {}): Settings =>
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

export async function consume(
  t: Pick<TestContext, 'after'>,
  db: Database,
  settings = settingsFor(),
): Promise<KafkaIntake> {
  const intake = await startKafkaIntake({ db, settings, secret, log });
  t.after(() => intake.stop());
  return intake;
}

export const stored = async (db: Database): Promise<string[]> =>
  (await db.query<{ text: string }>('select text from feedback order by text')).rows.map(row => row.text);

/** All there is in a topic from its beginning. */
export async function readAll(
  topic: string,
): Promise<{ value: string | undefined; headers: Record<string, string> }[]> {
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

export const options = { skip: missing ?? false, timeout: 120_000 };
export const ownOnly = () => ({
  ...options,
  skip: missing ?? (process.env.LEARND_TEST_KAFKA_BROKERS !== undefined && 'needs a broker of its own'),
});
