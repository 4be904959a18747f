import { randomBytes } from 'node:crypto';
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { LearndError, oneLine } from './base/errors.ts';
import type { Log } from './base/log.ts';
import { startLoop } from './base/loop.ts';
import { Scope } from './base/scope.ts';
import type { Settings } from './base/settings.ts';
import { startTelemetry } from './base/telemetry.ts';
import { type Control, startControl } from './loop/cycle.ts';
import { unlessErased } from './loop/ingest/erasure.ts';
import type { EventLog } from './loop/ingest/event-log.ts';
import { ingest } from './loop/ingest/ingest.ts';
import { type KafkaIntake, startKafkaIntake } from './loop/ingest/intake.ts';
import { kafkaLog } from './loop/ingest/kafka.ts';
import { ServingStats } from './loop/monitor/serving.ts';
import { publishExchanges } from './loop/publish/exchanges.ts';
import { absent, adminHandlers } from './serve/admin.ts';
import { followChampion } from './serve/follow.ts';
import { Serving } from './serve/index.ts';
import { daemonMetrics } from './serve/metrics.ts';
import { type StoreParts, storePorts, VersionOpener } from './serve/store-ports.ts';
import { type Artifacts, openArtifacts } from './store/artifacts.ts';
import { connect, type Database, waitForDatabase } from './store/database.ts';
import { processStart } from './store/embedded/orphan.ts';
import { startEmbedded } from './store/embedded.ts';
import { queueExchange } from './store/exchange-outbox.ts';
import { saveExchange } from './store/exchanges.ts';
import { deploymentSecret } from './store/facts.ts';
import { createKey, listKeys } from './store/keys.ts';
import { migrate } from './store/migrate.ts';

/** Starts and stops the roles of one process, and injects into each what it may know of the others. */
export interface Daemon {
  readonly url: string;
  /** The admin key, when this start made it. */
  readonly newKey: string | undefined;
  stop(): Promise<void>;
  /** Resolves when it has stopped. */
  readonly done: Promise<void>;
}

export interface DaemonOptions {
  readonly settings: Settings;
  readonly log: Log;
  /** Aborted: a start that is still under way is given up. */
  readonly signal?: AbortSignal;
}

export async function startDaemon(options: DaemonOptions): Promise<Daemon> {
  const { log } = options;
  const scope = new Scope();
  let ended: () => void = () => undefined;
  const done = new Promise<void>(resolve => {
    ended = resolve;
  });
  const stop = async (): Promise<void> => {
    try {
      await scope.close();
    } finally {
      ended();
    }
  };
  // A start that is called off must not wait for what it waits for: a database, a version that can be loaded.
  const calledOff = new Promise<never>((_, reject) => {
    const off = () => reject(new LearndError('canceled', 'the start was called off'));
    options.signal?.addEventListener('abort', () => void stop().then(off, off), { once: true });
  });
  try {
    return await Promise.race([start(options, scope, stop, done), calledOff]);
  } catch (error) {
    await stop().catch(second => log.warn('stopping after a failed start', { error: second }));
    throw error;
  }
}

async function start(
  options: DaemonOptions,
  scope: Scope,
  stop: () => Promise<void>,
  done: Promise<void>,
): Promise<Daemon> {
  const { settings, log } = options;
  const serves = settings.roles.includes('serve');
  mkdirSync(settings.data, { recursive: true, mode: 0o700 });
  refuseSecondDaemon(settings.data);

  const telemetry = startTelemetry({ service: settings.name, otlpEndpoint: settings.telemetry.otlp_endpoint });
  scope.defer('telemetry', () => telemetry.close());

  let parts: StoreParts | undefined;
  let waiting: string | undefined;
  let control: Control | undefined;
  let intake: KafkaIntake | undefined;
  const stats = new ServingStats();
  const metrics = daemonMetrics(() => control?.gauges);
  const ports = storePorts({
    settings,
    parts: () => parts,
    notReady: () => (waiting === undefined ? [] : [waiting]),
    metrics: () => telemetry.metricsText(),
    onServed: served => {
      stats.record({
        latencyMs: served.latencyMs,
        firstTokenMs: served.firstTokenMs,
        tokens: served.outputTokens,
        error: served.error,
      });
      metrics.served(served);
    },
    admin: adminHandlers({
      settings,
      db: () => parts?.db ?? absent('the store'),
      artifacts: () => parts?.artifacts.root ?? absent('the store'),
      artifactStore: () => parts?.artifacts ?? absent('the store'),
      control: () => control?.port ?? absent('the control part'),
    }),
  });
  // Listening comes first: /healthz answers while the store is still coming up.
  const serving = await Serving.start({
    ports,
    host: settings.host,
    port: settings.port,
    limits: settings.limits,
    serve: settings.serve,
    log,
    answers: serves,
  });
  scope.defer('serving', () => serving.close());
  writeDaemonFile(settings.data, serving.url);
  scope.defer('daemon.json', () => rmSync(join(settings.data, 'daemon.json'), { force: true }));

  const db = await openStore(settings, log, scope, {
    signal: options.signal,
    onWait: error => {
      waiting = oneLine(error);
    },
  });
  waiting = undefined;
  const artifacts = await openArtifacts(settings.artifacts_url ?? join(settings.data, 'artifacts'));
  const secret = await deploymentSecret(db);
  const newKey = await adminKey(db, settings, log);

  control = await startControl({ db, artifacts, settings, secret, stats, log });
  scope.defer('control', () => control?.stop());
  await control.bootstrapped;

  parts = {
    db,
    artifacts,
    ingest: (kind, events, origin) => ingest(db, settings, secret, events, { origin, kind }),
    async saveExchange(exchange) {
      await unlessErased(db, secret, exchange.user, async tx => {
        await saveExchange(tx, exchange);
        if (settings.kafka.exchanges && settings.kafka.brokers.length > 0) await queueExchange(tx, exchange.responseId);
      });
    },
  };
  if (serves) await serveChampion(db, artifacts, serving, log, scope);
  if (settings.kafka.brokers.length > 0) {
    if (settings.roles.includes('ingest')) intake = await startKafkaIntake({ db, settings, secret, log });
    const eventLog = intake?.log ?? kafkaLog(settings.kafka, { log });
    scope.defer('kafka', () => eventLog.close());
    control.publishTo(eventLog);
    if (settings.kafka.exchanges) exchangeLoop(db, settings, eventLog, log, scope);
  }
  // Ends first: answers in flight finish and are stored before anything they need is taken away.
  scope.defer('answers', () => serving.close());
  log.info('ready', { url: serving.url, roles: settings.roles.join(',') });
  return { url: serving.url, newKey, stop, done };
}

function exchangeLoop(db: Database, settings: Settings, eventLog: EventLog, log: Log, scope: Scope): void {
  const publish = (topic: string, key: string, value: string) => eventLog.publish(topic, [{ key, value }]);
  let waiting = false;
  const loop = startLoop({
    name: 'exchanges',
    everyMs: 1000,
    onError: error => {
      if (!waiting) log.warn('exchanges wait to be published', { reason: oneLine(error) });
      waiting = true;
    },
    async turn() {
      if (eventLog.state !== 'connected') return;
      await publishExchanges(db, { publish }, { name: settings.name });
      waiting = false;
    },
  });
  scope.defer('exchanges', () => loop.stop());
}

async function serveChampion(
  db: Database,
  artifacts: Artifacts,
  serving: Serving,
  log: Log,
  scope: Scope,
): Promise<void> {
  const opener = new VersionOpener();
  const follow = followChampion({
    db,
    open: row => opener.open(row, artifacts),
    target: {
      get champion() {
        return serving.versions.champion;
      },
      set: files => serving.setChampion(files),
    },
    log: log.child('champion'),
  });
  scope.defer('champion', () => follow.stop());
  const unlisten = await db.listen('learnd', topic => {
    if (topic === 'alias') follow.wake();
  });
  scope.defer('notifications', unlisten);
  await follow.first;
}

/** The embedded server, or the one given; an unreachable given one is waited for, and /readyz says so meanwhile. */
async function openStore(
  settings: Settings,
  log: Log,
  scope: Scope,
  waiting: { signal: AbortSignal | undefined; onWait: (error: LearndError) => void },
): Promise<Database> {
  let url = settings.database_url;
  if (url === undefined) {
    const embedded = await startEmbedded({ data: settings.data, log });
    scope.defer('postgres', () => embedded.stop());
    url = embedded.url;
  }
  const db = connect(url, { log, max: 16 });
  scope.defer('database', () => db.close());
  await waitForDatabase(db, {
    log,
    forMs: settings.database_url === undefined ? 30_000 : Number.POSITIVE_INFINITY,
    onWait: waiting.onWait,
    ...(waiting.signal && { signal: waiting.signal }),
  });
  await migrate(db, { log });
  return db;
}

/** One admin key on the first start, told once and kept in `admin.key` (0600) for the command line. */
async function adminKey(db: Database, settings: Settings, log: Log): Promise<string | undefined> {
  const file = join(settings.data, 'admin.key');
  const write = (token: string) => writeFileSync(file, `${token}\n`, { mode: 0o600 });
  if (settings.admin_key !== undefined) {
    await createKey(db, { name: 'admin (settings)', scopes: ['admin'], token: settings.admin_key });
    write(settings.admin_key);
    return undefined;
  }
  if ((await listKeys(db)).some(key => key.revoked_at === null)) return undefined;
  // The file comes first: a start killed in between finds it and registers the same key, so none is ever lost.
  const token = readToken(file) ?? `learnd_${randomBytes(32).toString('base64url')}`;
  write(token);
  await createKey(db, { name: 'admin', scopes: ['admin'], token });
  log.info('an admin key was made', { file });
  return token;
}

function readToken(file: string): string | undefined {
  try {
    return readFileSync(file, 'utf8').trim();
  } catch {
    return undefined; // no earlier start
  }
}

function refuseSecondDaemon(data: string): void {
  const file = join(data, 'daemon.json');
  let owner: { pid: number; started?: string };
  try {
    owner = JSON.parse(readFileSync(file, 'utf8')) as typeof owner;
  } catch {
    return; // no file, or half of one: nobody to ask
  }
  if (owner.pid === process.pid || !lives(owner)) return;
  throw new LearndError('conflict', `a daemon runs on ${data} already (process ${owner.pid})`, {
    hint: 'stop it, or choose another --data',
    retriable: false,
  });
}

/** Process ids are used again, in a container at once: another process under that number began at another time. */
function lives({ pid, started }: { pid: number; started?: string }): boolean {
  try {
    process.kill(pid, 0);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ESRCH') return false; // any other error: it lives and is another user's
  }
  // No times here (no /proc): the living process is taken for ours.
  return started === undefined || processStart(pid) === started;
}

function writeDaemonFile(data: string, url: string): void {
  writeFileSync(
    join(data, 'daemon.json'),
    `${JSON.stringify({ pid: process.pid, started: processStart(process.pid), url, started_at: new Date().toISOString() })}\n`,
  );
}
