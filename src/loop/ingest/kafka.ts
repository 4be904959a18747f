import { readFileSync } from 'node:fs';
import kafkajs, {
  type Admin,
  type Consumer,
  type EachBatchPayload,
  type Kafka,
  type KafkaConfig,
  type Producer,
  type SASLOptions,
} from 'kafkajs';
import { sleep } from '../../base/clock.ts';
import { invalid, LearndError, oneLine } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';
import type { Settings } from '../../base/settings.ts';
import { lz4Decode, snappyDecode, zstdDecode } from './compression.ts';
import type { Consumption, EventLog, LogMessage, LogState } from './event-log.ts';
import { place } from './placement.ts';

/** Apache Kafka by kafkajs: the only file that knows the library. Another client is another file with this interface. */

export type KafkaSettings = Settings['kafka'];

/** Waits between tries while brokers are away. */
const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 15_000;
const HEARTBEAT_MS = 3_000;
/** A topic that is missing and may not be created is looked for again after so long. */
const LOOK_AGAIN_MS = 30_000;

function pem(setting: string, file: string | undefined): string | undefined {
  if (file === undefined) return undefined;
  try {
    return readFileSync(file, 'utf8');
  } catch (cause) {
    throw invalid(`kafka.${setting}`, `kafka.${setting}: cannot read ${file}: ${(cause as Error).message}`, { cause });
  }
}

/** @throws LearndError('invalid') naming the setting that is missing or cannot be read */
export function clientConfig(settings: KafkaSettings, log: Log): KafkaConfig {
  const { sasl_mechanism: mechanism, sasl_username: username, sasl_password: password } = settings;
  let sasl: SASLOptions | undefined;
  if (mechanism !== undefined) {
    if (username === undefined) throw invalid('kafka.sasl_username', 'kafka.sasl_mechanism needs kafka.sasl_username');
    if (password === undefined) throw invalid('kafka.sasl_password', 'kafka.sasl_mechanism needs kafka.sasl_password');
    sasl = { mechanism, username, password } as SASLOptions;
  }
  const [ca, cert, key] = [
    pem('tls_ca', settings.tls_ca),
    pem('tls_cert', settings.tls_cert),
    pem('tls_key', settings.tls_key),
  ];
  return {
    clientId: settings.client_id,
    brokers: [...settings.brokers],
    ssl: settings.tls ? { ...(ca && { ca: [ca] }), ...(cert && { cert }), ...(key && { key }) } : false,
    sasl,
    connectionTimeout: 5_000,
    requestTimeout: 30_000,
    retry: { initialRetryTime: 200, retries: 4, maxRetryTime: 3_000 },
    logLevel: kafkajs.logLevel.WARN,
    // The library reports every lost connection as an error; what matters is said once by `KafkaLog`.
    logCreator: () => entry => log.debug(`kafkajs: ${entry.log.message}`, { error: entry.log.error }),
  };
}

const dependency = (what: string, cause: unknown): LearndError =>
  new LearndError('dependency', `Kafka: ${what}: ${oneLine(cause)}`, {
    hint: 'Are the brokers in kafka.brokers running and reachable?',
    cause,
  });

export function kafkaLog(settings: KafkaSettings, options: { log: Log }): EventLog {
  return new KafkaLog(settings, options.log.child('kafka'));
}

class KafkaLog implements EventLog {
  readonly #settings: KafkaSettings;
  readonly #log: Log;
  readonly #kafka: Kafka;
  readonly #stop = new AbortController();
  #producer: Promise<Producer> | undefined;
  #admin: Promise<Admin> | undefined;
  #consuming: Promise<void> | undefined;
  #consumption: Consumption | undefined;
  #joined = false;
  /** Topics that were there when last published to. */
  readonly #ensured = new Set<string>();

  constructor(settings: KafkaSettings, log: Log) {
    this.#settings = settings;
    this.#log = log;
    this.#kafka = new kafkajs.Kafka(clientConfig(settings, log));
    const decoder = (decode: (bytes: Buffer) => Buffer) => () => ({
      compress: async () => {
        throw new LearndError('internal', 'learnd publishes without compression');
      },
      decompress: async (bytes: Buffer) => decode(bytes),
    });
    kafkajs.CompressionCodecs[kafkajs.CompressionTypes.Snappy] = decoder(snappyDecode);
    kafkajs.CompressionCodecs[kafkajs.CompressionTypes.LZ4] = decoder(lz4Decode);
    kafkajs.CompressionCodecs[kafkajs.CompressionTypes.ZSTD] = decoder(zstdDecode);
  }

  get state(): LogState {
    if (this.#stop.signal.aborted) return 'closed';
    return this.#consuming === undefined || this.#joined ? 'connected' : 'reconnecting';
  }

  consume(consumption: Consumption): void {
    if (this.#consuming) throw new LearndError('internal', 'this log is being consumed already');
    this.#consumption = consumption;
    this.#consuming = this.#consumeForever(consumption);
  }

  async publish(topic: string, messages: readonly LogMessage[]): Promise<void> {
    if (this.#stop.signal.aborted)
      throw new LearndError('dependency', 'Kafka: the log is closed', { retriable: false });
    this.#producer ??= this.#connectProducer();
    const producer = this.#producer;
    // It may fail while the topic is still being looked for below, with nobody waiting for it yet.
    producer.catch(() => undefined);
    try {
      if (!this.#ensured.has(topic)) await this.#existing([topic]);
      this.#ensured.add(topic);
      await (await producer).send({
        topic,
        acks: -1,
        messages: messages.map(({ key, value, headers }) => ({ key, value, headers: { ...headers } })),
      });
    } catch (cause) {
      // Its sequence numbers are in doubt now: the next message goes out under a new producer id.
      if (this.#producer === producer) this.#producer = undefined;
      this.#ensured.delete(topic);
      this.#dropAdmin();
      void producer.then(old => old.disconnect()).catch(error => this.#log.debug('producer dropped', { error }));
      throw dependency(`cannot publish to ${topic}`, cause);
    }
  }

  async lag(): Promise<Readonly<Record<string, number>>> {
    const consumption = this.#consumption;
    if (!consumption) return {};
    const stored = new Map((await consumption.positions()).map(at => [`${at.topic}/${at.partition}`, at.next]));
    try {
      const admin = await this.#connectedAdmin();
      const there = new Set(await admin.listTopics());
      const lags: Record<string, number> = {};
      for (const topic of consumption.topics) {
        if (!there.has(topic)) continue;
        lags[topic] = (await admin.fetchTopicOffsets(topic)).reduce((sum, { partition, low, high }) => {
          const next = Math.max(stored.get(`${topic}/${partition}`) ?? 0, Number(low));
          return sum + Math.max(0, Number(high) - next);
        }, 0);
      }
      return lags;
    } catch (cause) {
      this.#dropAdmin();
      throw dependency('cannot read offsets', cause);
    }
  }

  async close(): Promise<void> {
    this.#stop.abort();
    await this.#consuming;
    const producer = await this.#producer?.catch(() => undefined); // a connection that never came needs no closing
    await producer?.disconnect();
    this.#dropAdmin();
  }

  async #connectProducer(): Promise<Producer> {
    const producer = this.#kafka.producer({
      idempotent: true,
      maxInFlightRequests: 1,
      createPartitioner: kafkajs.Partitioners.DefaultPartitioner,
      allowAutoTopicCreation: false,
      retry: { initialRetryTime: 200, retries: 4, maxRetryTime: 3_000 },
    });
    await producer.connect();
    return producer;
  }

  #connectedAdmin(): Promise<Admin> {
    this.#admin ??= (async () => {
      const admin = this.#kafka.admin();
      await admin.connect();
      return admin;
    })();
    // Whoever asked first may have given up (a broker that is away) before it fails; who waits for it is told all the same.
    this.#admin.catch(() => undefined);
    return this.#admin;
  }

  #dropAdmin(): void {
    const admin = this.#admin;
    this.#admin = undefined;
    void admin?.then(old => old.disconnect()).catch(error => this.#log.debug('admin dropped', { error }));
  }

  /** One session after another, each with a consumer of its own: whatever ends one, the next begins where Postgres says. */
  async #consumeForever(consumption: Consumption): Promise<void> {
    const { signal } = this.#stop;
    for (let wait = FIRST_WAIT_MS; !signal.aborted; wait = Math.min(LONGEST_WAIT_MS, wait * 2)) {
      try {
        await this.#session(consumption);
        wait = FIRST_WAIT_MS / 2;
      } catch (error) {
        if (this.#joined) wait = FIRST_WAIT_MS;
        this.#log.warn('not consuming; trying again', { reason: oneLine(error), wait_ms: wait });
        this.#dropAdmin();
      }
      this.#joined = false;
      if (!signal.aborted) await sleep(wait, signal);
    }
  }

  /** Resolves when it should begin anew (closed, or a missing topic has come), rejects when the brokers are lost. */
  async #session(consumption: Consumption): Promise<void> {
    const topics = await this.#existing(consumption.topics);
    const complete = topics.length === consumption.topics.length;
    const consumer = this.#kafka.consumer({
      groupId: this.#settings.group_id,
      // A consumer killed without a goodbye holds its partitions for so long.
      sessionTimeout: 10_000,
      rebalanceTimeout: 60_000,
      heartbeatInterval: HEARTBEAT_MS,
      maxWaitTimeInMs: 500,
      maxBytesPerPartition: 4 << 20,
      maxBytes: 32 << 20,
      allowAutoTopicCreation: false,
      retry: { initialRetryTime: 200, retries: 4, maxRetryTime: 3_000, restartOnFailure: async () => false },
    });
    const ended = new AbortController();
    const over = AbortSignal.any([ended.signal, this.#stop.signal]);
    let failure: unknown;
    let placing: Promise<void> = Promise.resolve();
    consumer.on(consumer.events.CRASH, ({ payload }) => {
      failure = payload.error;
      ended.abort();
    });
    consumer.on(consumer.events.GROUP_JOIN, ({ payload }) => {
      this.#joined = true;
      placing = this.#place(consumer, consumption, payload.memberAssignment, over);
      // A batch waits for it and fails with it; without a batch it is the session's end that tells.
      placing.catch(() => undefined);
    });
    try {
      await consumer.connect();
      await consumer.subscribe({ topics, fromBeginning: this.#settings.start === 'earliest' });
      await consumer.run({
        autoCommit: false,
        eachBatchAutoResolve: false,
        partitionsConsumedConcurrently: 3,
        eachBatch: payload => this.#batch(consumption, payload, () => placing),
      });
      const until = complete ? over : AbortSignal.any([over, AbortSignal.timeout(LOOK_AGAIN_MS)]);
      await new Promise<void>(resolve => {
        if (until.aborted) resolve();
        until.addEventListener('abort', () => resolve(), { once: true });
      });
      if (failure !== undefined) throw failure;
    } finally {
      ended.abort();
      await consumer.disconnect().catch(error => this.#log.debug('consumer dropped', { error }));
    }
  }

  async #place(
    consumer: Consumer,
    consumption: Consumption,
    assignment: Readonly<Record<string, readonly number[]>>,
    signal: AbortSignal,
  ): Promise<void> {
    for (let wait = FIRST_WAIT_MS; !signal.aborted; wait = Math.min(LONGEST_WAIT_MS, wait * 2)) {
      try {
        const admin = await this.#connectedAdmin();
        const watermarks = async (topic: string) =>
          (await admin.fetchTopicOffsets(topic)).map(at => ({
            partition: at.partition,
            low: Number(at.low),
            high: Number(at.high),
          }));
        const placed = await place(consumption, assignment, {
          watermarks,
          start: this.#settings.start,
          log: this.#log,
        });
        if (signal.aborted) return;
        for (const { topic, partition, next } of placed) consumer.seek({ topic, partition, offset: String(next) });
        return;
      } catch (error) {
        this.#log.warn('cannot tell where to read on; trying again', { reason: oneLine(error), wait_ms: wait });
        this.#dropAdmin();
        await sleep(wait, signal);
      }
    }
  }

  async #batch(consumption: Consumption, payload: EachBatchPayload, placing: () => Promise<void>): Promise<void> {
    const { batch, heartbeat, resolveOffset, commitOffsetsIfNecessary, isRunning, isStale } = payload;
    const { topic, partition } = batch;
    // What was fetched before the position was set is stale: it is fetched again from there.
    await beating(placing(), heartbeat);
    const dropped = () => !isRunning() || isStale() || this.#stop.signal.aborted;
    const records = batch.messages.map(({ offset, key, value, headers }) => ({
      topic,
      partition,
      offset: Number(offset),
      key,
      value,
      headers: texts(headers),
    }));
    for (let wait = FIRST_WAIT_MS; !dropped(); wait = Math.min(LONGEST_WAIT_MS, wait * 2)) {
      try {
        await beating(consumption.onBatch(records), heartbeat);
      } catch (error) {
        if (isLibraryError(error)) throw error;
        this.#log.warn('a batch could not be stored; trying again', {
          topic,
          partition,
          records: records.length,
          reason: oneLine(error),
          wait_ms: wait,
        });
        await beating(sleep(wait, this.#stop.signal), heartbeat);
        continue;
      }
      resolveOffset(batch.lastOffset());
      const next = String(Number(batch.lastOffset()) + 1);
      await commitOffsetsIfNecessary({ topics: [{ topic, partitions: [{ partition, offset: next }] }] });
      return;
    }
  }

  /** The topics that are there, those that were missing created where that is allowed. @throws when there is none */
  async #existing(topics: readonly string[]): Promise<string[]> {
    const admin = await this.#connectedAdmin();
    const missing = async () => {
      const there = new Set(await admin.listTopics());
      return topics.filter(topic => !there.has(topic));
    };
    let absent = await missing();
    if (absent.length > 0) {
      try {
        // -1: the cluster's own default.
        await admin.createTopics({
          topics: absent.map(topic => ({ topic, numPartitions: -1, replicationFactor: -1 })),
          waitForLeaders: true,
        });
        this.#log.info('created topics', { topics: absent.join(',') });
      } catch (error) {
        this.#log.warn('cannot create topics', { topics: absent.join(','), reason: oneLine(error) });
      }
      absent = await missing();
    }
    const there = topics.filter(topic => !absent.includes(topic));
    if (there.length === 0)
      throw new LearndError(
        'dependency',
        `Kafka has none of the topics ${topics.join(', ')}, and they may not be created`,
        {
          hint: 'Create them, or allow learnd to',
        },
      );
    if (absent.length > 0) this.#log.warn('topics are missing; consuming the others', { missing: absent.join(',') });
    return there;
  }
}

const isLibraryError = (error: unknown): boolean => error instanceof Error && error.name.startsWith('KafkaJS');

/** Waits for `work` and keeps the membership alive meanwhile. Rejects at once when the membership is lost. */
async function beating<T>(work: Promise<T>, heartbeat: () => Promise<void>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const lost = new Promise<never>((_, reject) => {
    timer = setInterval(() => void heartbeat().catch(reject), HEARTBEAT_MS);
  });
  try {
    return await Promise.race([work, lost]);
  } finally {
    clearInterval(timer);
  }
}

function texts(headers: EachBatchPayload['batch']['messages'][number]['headers']): Record<string, string> {
  const entries = Object.entries(headers ?? {}).flatMap(([name, value]) => {
    const one = Array.isArray(value) ? value[0] : value;
    return one === undefined ? [] : [[name.toLowerCase(), one.toString()] as const];
  });
  return Object.fromEntries(entries);
}
