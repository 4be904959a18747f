/**
 * The turn at full size: SmolLM2-135M, BANKING77, Apache Kafka and PostgreSQL, on the machine it runs on. Writes docs/results/acceptance.md.
 * `npm run acceptance` runs both parts (about half an hour on 2 cores); `npm run acceptance -- labels|documents` runs one.
 */
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { availableParallelism, cpus, tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { Kafka } from 'kafkajs';
import { silentLog } from '../src/base/log.ts';
import { weightedF1 } from '../src/learn/metrics/f1.ts';
import { connect } from '../src/store/database.ts';
import { startEmbedded } from '../src/store/embedded.ts';
import { eventually, startTestDaemon, type TestDaemon } from '../test/support/daemon.ts';
import { labelEvents, seeded } from '../test/support/inquiries.ts';
import { startKafka, type TestKafka } from '../test/support/kafka.ts';
import { type Streamed, streamForever } from '../test/support/streaming.ts';
import { banking77, type Labelled, missingBanking77 } from './banking77.ts';

const OLD = [
  'activate_my_card',
  'balance_not_updated_after_bank_transfer',
  'card_arrival',
  'change_pin',
  'exchange_rate',
  'lost_or_stolen_card',
  'top_up_failed',
  'verify_my_identity',
];
const NEW = [
  'age_limit',
  'apple_pay_or_google_pay',
  'cash_withdrawal_charge',
  'country_support',
  'passcode_forgotten',
  'request_refund',
  'terminate_account',
];
const USERS = 300;

const LABEL_SETTINGS = `
base: smollm2-135m
tasks: [{ name: intent, labels: [${[...OLD, ...NEW].join(', ')}] }]
privacy: { expected_users: 240, examples_per_user: 16 }
monitor: { every_seconds: 1, sample: 64, window: 200, minimum: 40 }
`;
const LABEL_POLICIES = `
rules:
  - name: first-head
    when: champion.version == 1
    require: feedback.new >= 400
    do: [{ finetune: { data: feedback, method: head, epsilon: 4, max_minutes: 10 } }]
    cooldown: 1h
  - name: refresh-on-drift
    when: f1.alarm
    require: feedback.new >= 600
    do: [{ finetune: { data: feedback, method: auto, epsilon: 6, max_minutes: 10 } }]
    cooldown: 1h
budget: { epsilon: 8, delta: 1e-6 }
`;
const DOCUMENT_SETTINGS = `
base: smollm2-135m
privacy: { expected_users: 800, examples_per_user: 4 }
monitor: { every_seconds: 1, sample: 100, window: 200, minimum: 40 }
kafka: { group_id: documents }
`;
const DOCUMENT_POLICIES = `
rules:
  - name: read-inquiries
    when: documents.new >= 750
    do: [{ finetune: { data: documents, method: auto, epsilon: 8, max_minutes: 20 } }]
    cooldown: 1h
budget: { epsilon: 8, delta: 1e-6 }
`;

/** As much of a test context as the supports use: what is left behind is cleaned up at the end. */
class Clean {
  readonly #after: (() => unknown)[] = [];
  after(fn: () => unknown): void {
    this.#after.push(fn);
  }
  async run(): Promise<void> {
    for (const fn of this.#after.reverse()) await fn();
  }
}

const say = (text: string): void => void process.stderr.write(`${new Date().toISOString().slice(11, 19)} ${text}\n`);
const minutes = (ms: number): number => Math.round(ms / 6000) / 10;

async function produce(kafka: TestKafka, topic: string, events: readonly unknown[]): Promise<void> {
  const producer = new Kafka({ brokers: kafka.brokers, clientId: 'acceptance', logLevel: 0 }).producer({
    allowAutoTopicCreation: true,
  });
  await producer.connect();
  for (let at = 0; at < events.length; at += 500) {
    const messages = events.slice(at, at + 500).map(event => {
      const { user } = (event as { data: { user?: string } }).data;
      return { key: user ?? null, value: JSON.stringify(event) };
    });
    await producer.send({ topic, messages });
  }
  await producer.disconnect();
}

/** Each user gets the same number of rows, in a seeded order. */
function withUsers(rows: readonly Labelled[], count: number, seed: number) {
  const random = seeded(seed);
  const shuffled = rows
    .map(row => ({ row, at: random() }))
    .sort((a, b) => a.at - b.at)
    .slice(0, count);
  return shuffled.map(({ row }, i) => ({ ...row, user: `user-${i % USERS}` }));
}

async function classify(daemon: TestDaemon, model: string, items: readonly Labelled[]): Promise<number> {
  const predicted: string[] = [];
  for (let at = 0; at < items.length; at += 64) {
    const texts = items.slice(at, at + 64).map(item => item.text);
    const answer = (await daemon.post('/v1/classify', { task: 'intent', texts, model })) as {
      results: { label: string }[];
    };
    predicted.push(...answer.results.map(r => r.label));
  }
  return (
    weightedF1(
      items.map(i => i.label),
      predicted,
    ).weighted ?? 0
  );
}

interface Status {
  champion: string;
  signals: Record<string, number | boolean | null>;
  budget: { epsilon_spent: number; delta: number };
  round: { state: string } | null;
}
const statusOf = async (daemon: TestDaemon): Promise<Status> => (await daemon.get('/v1/admin/status')) as Status;

/** Tokens a second that one open socket received between two moments. */
function speed(streamed: readonly (Streamed & { at: number; ms: number })[], from: number, to: number): number | null {
  const within = streamed.filter(s => s.at >= from && s.at <= to);
  const ms = within.reduce((sum, s) => sum + s.ms, 0);
  return ms === 0 ? null : (1000 * within.reduce((sum, s) => sum + s.deltas, 0)) / ms;
}

async function labels(clean: Clean, kafka: TestKafka, databaseUrl: string): Promise<Record<string, unknown>> {
  const train = banking77('train');
  const test = banking77('test');
  const of = (rows: readonly Labelled[], intents: readonly string[]) => rows.filter(row => intents.includes(row.label));
  const folder = mkdtempSync(join(tmpdir(), 'learnd-acceptance-'));
  clean.after(() => rmSync(folder, { recursive: true, force: true }));
  const env = { KAFKA_BROKERS: kafka.brokers.join(','), DATABASE_URL: databaseUrl };
  const daemon = await startTestDaemon(clean as never, {
    data: folder,
    settings: LABEL_SETTINGS,
    policies: LABEL_POLICIES,
    env,
    readyMs: 300_000,
  });
  say('up');
  const stop = new AbortController();
  const streamed: (Streamed & { at: number; ms: number })[] = [];
  let last = Date.now();
  const sink = {
    push: (s: Streamed) => {
      const now = Date.now();
      streamed.push({ ...s, at: now, ms: now - last });
      last = now;
    },
  };
  const streaming = streamForever(daemon, sink as never, stop.signal, { maxTokens: 32, probe: null });
  const idleFrom = Date.now();
  await eventually('answers while idle', async () => (streamed.length >= 8 ? true : undefined), 120_000);
  const idle = speed(streamed, idleFrom, Date.now());

  const oldRows = withUsers(of(train, OLD), 600, 1);
  const newRows = withUsers(of(train, NEW), 900, 2);
  await produce(kafka, 'learnd.feedback', labelEvents(oldRows, { source: 'old' }));
  say('600 labels of the old intents sent');
  await eventually(
    'a first head',
    async () => ((await statusOf(daemon)).champion === 'learnd@2' ? true : undefined),
    900_000,
    1000,
  );
  say('learnd@2 is live');
  const oldTest = of(test, OLD);
  const newTest = of(test, NEW);
  // Trickled in: of a burst the monitor scores a sample, and it is the live figure that is wanted here.
  const more = withUsers(of(train, OLD), 900, 1).slice(600);
  let sent = 0;
  const calm = await eventually(
    'F1 known on the old intents',
    async () => {
      const status = await statusOf(daemon);
      if (typeof status.signals['f1.value'] === 'number') return status;
      const next = more.slice(sent, sent + 20);
      if (next.length > 0) await produce(kafka, 'learnd.feedback', labelEvents(next, { source: `calm-${sent}` }));
      sent += next.length;
      return undefined;
    },
    600_000,
    3000,
  );

  const shifted = Date.now();
  await produce(kafka, 'learnd.feedback', labelEvents(newRows, { source: 'new' }));
  say('900 labels of the new intents sent');
  const alarm = await eventually(
    'the alarm',
    async () => {
      const s = await statusOf(daemon);
      return s.signals['f1.alarm'] === true ? s : undefined;
    },
    600_000,
    500,
  );
  const alarmAt = Date.now();
  say('alarm');
  await eventually('the round', async () => ((await statusOf(daemon)).round ? true : undefined), 300_000, 250);
  const roundFrom = Date.now();
  const answered = await eventually(
    'an answer by the new version',
    async () => streamed.find(s => s.version === 'learnd@3'),
    1_200_000,
    250,
  );
  const during = speed(streamed, roundFrom, answered.at);
  say('learnd@3 answers');
  stop.abort();
  await streaming;
  const result = {
    f1_live_before_shift: calm.signals['f1.value'],
    f1_live_at_alarm: alarm.signals['f1.value'],
    f1_new_before: await classify(daemon, 'learnd@2', newTest),
    f1_new_after: await classify(daemon, 'learnd@3', newTest),
    f1_old_before: await classify(daemon, 'learnd@2', oldTest),
    f1_old_after: await classify(daemon, 'learnd@3', oldTest),
    epsilon: (await statusOf(daemon)).budget.epsilon_spent,
    delta: 1e-6,
    minutes_shift_to_alarm: minutes(alarmAt - shifted),
    minutes_shift_to_new_answer: minutes(answered.at - shifted),
    tokens_per_second_idle: idle,
    tokens_per_second_while_training: during,
    answers: streamed.length,
    answers_failed: streamed.filter(s => s.error !== undefined).length,
    answers_mixed: streamed.filter(s => new Set(s.versions).size !== 1).length,
    rounds: ((await daemon.get('/v1/admin/rounds')) as { id: number; state: string; epsilon: number }[]).map(
      ({ id, state, epsilon }) => ({ id, state, epsilon }),
    ),
  };
  await daemon.stop();
  return result;
}

async function documents(clean: Clean, kafka: TestKafka, databaseUrl: string): Promise<Record<string, unknown>> {
  const folder = mkdtempSync(join(tmpdir(), 'learnd-acceptance-'));
  clean.after(() => rmSync(folder, { recursive: true, force: true }));
  const env = { KAFKA_BROKERS: kafka.brokers.join(','), DATABASE_URL: databaseUrl };
  const daemon = await startTestDaemon(clean as never, {
    data: folder,
    settings: DOCUMENT_SETTINGS,
    policies: DOCUMENT_POLICIES,
    env,
    readyMs: 300_000,
  });
  const rows = withUsers(banking77('train'), 1250, 7);
  const events = rows.map(({ text }, i) => ({
    specversion: '1.0',
    id: `d-${i}`,
    source: 'inquiries',
    type: 'learnd.document',
    data: { text, source: 'inquiries', user: `writer-${i}` },
  }));
  const started = Date.now();
  await produce(kafka, 'learnd.documents', events);
  say('1,250 inquiries sent as documents, one a user (1,000 expected in the training part)');
  await eventually(
    'the version that read them',
    async () => ((await statusOf(daemon)).champion === 'learnd@2' ? true : undefined),
    1_800_000,
    1000,
  );
  const tookMs = Date.now() - started;
  const versions = (await daemon.get('/v1/admin/versions')) as {
    version: string;
    evaluation: Record<string, unknown>;
    manifest: { model: { file: string }; logit_bias?: { file: string } };
  }[];
  const rounds = (await daemon.get('/v1/admin/rounds')) as {
    verdict: { champion: Record<string, number>; candidate: Record<string, number> };
    epsilon: number;
  }[];
  const lines = join(folder, 'test.txt');
  writeFileSync(
    lines,
    banking77('test')
      .slice(0, 1000)
      .map(row => row.text)
      .join('\n'),
  );
  const outside = versions.map(({ version, manifest }) => {
    const run = spawnSync(
      process.execPath,
      [
        'bin/learnd.mjs',
        'eval',
        'perplexity',
        '--model',
        join(daemon.data, 'artifacts', manifest.model.file),
        '--file',
        lines,
        '--json',
        ...(manifest.logit_bias ? ['--logit-bias', join(daemon.data, 'artifacts', manifest.logit_bias.file)] : []),
      ],
      { encoding: 'utf8', cwd: resolve(import.meta.dirname, '..') },
    );
    return [version, (JSON.parse(run.stdout) as { perplexity: number }).perplexity] as const;
  });
  const perplexity = Object.fromEntries(outside);
  const result = {
    perplexity_test_before: perplexity['learnd@1'],
    perplexity_test_after: perplexity['learnd@2'],
    lower_by: 1 - perplexity['learnd@2']! / perplexity['learnd@1']!,
    held_out: rounds[0]?.verdict,
    epsilon: rounds[0]?.epsilon,
    minutes: minutes(tookMs),
  };
  await daemon.stop();
  return result;
}

/** The installed PostgreSQL server, run as an ordinary user on a folder of its own. @returns its address */
async function startPostgres(clean: Clean): Promise<string> {
  const given = process.env.LEARND_TEST_DATABASE_URL;
  if (given !== undefined) return given;
  const newest = readdirSync('/usr/lib/postgresql').sort((a, b) => Number(b) - Number(a))[0];
  if (newest === undefined) throw new Error('no PostgreSQL server is installed: set LEARND_TEST_DATABASE_URL');
  const data = mkdtempSync(join(tmpdir(), 'learnd-acceptance-pg-'));
  const server = await startEmbedded({ data, log: silentLog, binaries: `/usr/lib/postgresql/${newest}/bin` });
  clean.after(async () => {
    await server.stop();
    rmSync(data, { recursive: true, force: true });
  });
  return server.url;
}

async function createDatabase(url: string, name: string): Promise<string> {
  const db = connect(url, { log: silentLog, max: 1 });
  await db.query(`create database ${name}`);
  await db.close();
  const address = new URL(url);
  address.pathname = `/${name}`;
  return address.toString();
}

async function main(): Promise<void> {
  const missing = missingBanking77();
  if (missing !== undefined) throw new Error(missing);
  const clean = new Clean();
  const wanted = process.argv.slice(2);
  const results: Record<string, unknown> = {};
  try {
    const kafka = await startKafka();
    clean.after(() => kafka.stop());
    const server = await startPostgres(clean);
    for (const [name, part] of Object.entries({ labels, documents })) {
      if (wanted.length > 0 && !wanted.includes(name)) continue;
      say(name);
      results[name] = await part(clean, kafka, await createDatabase(server, `acceptance_${name}`));
      say(JSON.stringify(results[name], null, 2));
    }
  } finally {
    await clean.run();
  }
  const machine = `${availableParallelism()} cores (${cpus()[0]?.model.trim()}), Node ${process.version}, ${new Date().toISOString().slice(0, 10)}`;
  mkdirSync('docs/results', { recursive: true });
  for (const [name, result] of Object.entries(results)) {
    const rows = Object.entries(result as object).map(
      ([key, value]) =>
        `| ${key.replaceAll('_', ' ')} | ${typeof value === 'number' ? Number(value.toPrecision(4)) : typeof value === 'object' ? `\`${JSON.stringify(value)}\`` : value} |`,
    );
    writeFileSync(
      `docs/results/acceptance-${name}.md`,
      `# The turn at full size: ${name}\n\nMade by \`npm run acceptance -- ${name}\` (bench/acceptance.ts holds settings and policies): SmolLM2-135M-Instruct, BANKING77 (Casanueva et al. 2020, CC-BY-4.0), Apache Kafka 4.3.1, PostgreSQL, on ${machine}.\n\n| figure | value |\n|---|---|\n${rows.join('\n')}\n`,
    );
  }
  process.stdout.write(`${JSON.stringify(results)}\n`);
}

await main();
