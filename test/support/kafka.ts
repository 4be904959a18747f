import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import {
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { cacheFolder } from '../../src/base/settings.ts';

/**
 * A real Apache Kafka broker for tests (KRaft, one node), run from its Maven jars, which are resolved once into the user's cache
 * folder. LEARND_TEST_KAFKA_BROKERS names a broker of yours instead (plaintext; tests that stop it or need SASL are left out).
 */
const KAFKA = '4.3.1';

export const SASL = { username: 'anna', password: 'correct horse' } as const;

export interface TestKafka {
  /** Plaintext. */
  readonly brokers: string[];
  /** What only a broker of our own can do; undefined for a given one. */
  readonly own:
    | {
        /** SASL_SSL: PLAIN, SCRAM-SHA-256 and SCRAM-SHA-512 with the user of `SASL`. */
        readonly secure: { readonly brokers: string[]; readonly ca: string };
        /** SIGKILL: no goodbye to the clients. */
        kill(): Promise<void>;
        start(): Promise<void>;
        /** Runs a tool of Kafka, e.g. the console producer; resolves with its output. */
        tool(main: string, args: readonly string[], input?: string): string;
      }
    | undefined;
  stop(): Promise<void>;
}

/** Why there can be no broker; undefined: there can. Under CI=true that is an error, not a reason to skip. */
export function missingKafka(): string | undefined {
  if (process.env.LEARND_TEST_KAFKA_BROKERS !== undefined) return undefined;
  const needed: [string, string[]][] = [
    ['java', ['-version']],
    ['openssl', ['version']],
    ...(existsSync(jars()) ? [] : ([['mvn', ['--version']]] as [string, string[]][])),
  ];
  const missing = needed.filter(([command, args]) => spawnSync(command, args, { stdio: 'ignore' }).status !== 0);
  if (missing.length === 0) return undefined;
  const reason = `no Kafka: ${missing.map(([command]) => command).join(', ')} not found; install it or set LEARND_TEST_KAFKA_BROKERS`;
  if (process.env.CI === 'true') throw new Error(reason);
  process.stderr.write(`\nSKIPPED: ${reason}\n\n`);
  return reason;
}

const jars = (): string => join(cacheFolder(), `kafka-${KAFKA}`);

function resolveJars(): string {
  const folder = jars();
  if (existsSync(folder)) return folder;
  const work = mkdtempSync(join(tmpdir(), 'learnd-kafka-jars-'));
  const dependency = (group: string, artifact: string, version: string) =>
    `<dependency><groupId>${group}</groupId><artifactId>${artifact}</artifactId><version>${version}</version></dependency>`;
  writeFileSync(
    join(work, 'pom.xml'),
    `<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
    <groupId>learnd</groupId><artifactId>kafka-for-tests</artifactId><version>1</version><dependencies>
    ${dependency('org.apache.kafka', 'kafka_2.13', KAFKA)}
    ${dependency('org.apache.kafka', 'kafka-tools', KAFKA)}
    ${dependency('org.slf4j', 'slf4j-simple', '1.7.36')}
    </dependencies></project>`,
  );
  execFileSync(
    'mvn',
    ['-q', '-B', 'dependency:copy-dependencies', `-DoutputDirectory=${join(work, 'jars')}`, '-DincludeScope=runtime'],
    { cwd: work, stdio: ['ignore', 'ignore', 'inherit'] },
  );
  mkdirSync(cacheFolder(), { recursive: true });
  // Another test process may have been quicker; its folder is as good.
  const staged = `${folder}.${process.pid}`;
  execFileSync('cp', ['-r', join(work, 'jars'), staged]);
  if (existsSync(folder)) rmSync(staged, { recursive: true });
  else renameSync(staged, folder);
  rmSync(work, { recursive: true, force: true });
  return folder;
}

const freePort = (): Promise<number> =>
  new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address() as { port: number };
      server.close(() => resolve(port));
    });
  });

/** A certificate authority and a key with a certificate for 127.0.0.1. */
function certificates(folder: string): { ca: string; keystore: string } {
  const at = (name: string) => join(folder, name);
  const openssl = (...args: string[]) => execFileSync('openssl', args, { stdio: ['ignore', 'ignore', 'pipe'] });
  const newKey = ['-newkey', 'rsa:2048', '-nodes'];
  openssl(
    'req',
    '-x509',
    ...newKey,
    '-days',
    '2',
    '-subj',
    '/CN=learnd test authority',
    '-keyout',
    at('ca.key'),
    '-out',
    at('ca.pem'),
  );
  openssl('req', ...newKey, '-subj', '/CN=127.0.0.1', '-keyout', at('broker.key'), '-out', at('broker.csr'));
  writeFileSync(at('san'), 'subjectAltName=IP:127.0.0.1,DNS:localhost\n');
  const signing = ['-CA', at('ca.pem'), '-CAkey', at('ca.key'), '-CAcreateserial', '-days', '2', '-extfile', at('san')];
  openssl('x509', '-req', '-in', at('broker.csr'), ...signing, '-out', at('broker.pem'));
  writeFileSync(at('keystore.pem'), readFileSync(at('broker.key'), 'utf8') + readFileSync(at('broker.pem'), 'utf8'));
  return { ca: at('ca.pem'), keystore: at('keystore.pem') };
}

function properties(
  folder: string,
  ports: Record<'plain' | 'secure' | 'controller', number>,
  keystore: string,
): string {
  const module = 'org.apache.kafka.common.security';
  const listeners = `PLAINTEXT://127.0.0.1:${ports.plain},SASL_SSL://127.0.0.1:${ports.secure}`;
  return `
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:${ports.controller}
controller.listener.names=CONTROLLER
listeners=${listeners},CONTROLLER://127.0.0.1:${ports.controller}
advertised.listeners=${listeners}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
log.dirs=${join(folder, 'log')}
num.partitions=2
auto.create.topics.enable=false
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
message.max.bytes=${64 << 20}
socket.request.max.bytes=${128 << 20}
ssl.keystore.type=PEM
ssl.keystore.location=${keystore}
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
listener.name.sasl_ssl.plain.sasl.jaas.config=${module}.plain.PlainLoginModule required user_${SASL.username}="${SASL.password}";
listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config=${module}.scram.ScramLoginModule required;
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=${module}.scram.ScramLoginModule required;
`;
}

const answers = (port: number): Promise<boolean> =>
  new Promise(resolve => {
    const socket = connect(port, '127.0.0.1', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => resolve(false));
  });

/** Starts a broker (or takes the given one). The caller stops it. @throws when it is not up within 90 s, with the end of its log */
export async function startKafka(): Promise<TestKafka> {
  const given = process.env.LEARND_TEST_KAFKA_BROKERS;
  if (given !== undefined) return { brokers: given.split(','), own: undefined, stop: async () => undefined };
  const classpath = `${resolveJars()}/*`;
  const folder = mkdtempSync(join(tmpdir(), 'learnd-kafka-'));
  const ports = { plain: await freePort(), secure: await freePort(), controller: await freePort() };
  const { ca, keystore } = certificates(folder);
  const config = join(folder, 'server.properties');
  writeFileSync(config, properties(folder, ports, keystore));
  const java = ['-Xms64m', '-Xmx640m', '-XX:+UseSerialGC', '-XX:TieredStopAtLevel=1', '-cp', classpath];
  const tool = (main: string, args: readonly string[], input?: string): string =>
    execFileSync('java', [...java, main, ...args], {
      input,
      encoding: 'utf8',
      stdio: ['pipe', 'pipe', 'ignore'],
      cwd: folder,
    });
  const scram = (mechanism: string) => [
    '--add-scram',
    `${mechanism}=[name=${SASL.username},password=${SASL.password}]`,
  ];
  const id = randomBytes(16).toString('base64url');
  tool('kafka.tools.StorageTool', [
    'format',
    '-t',
    id,
    '-c',
    config,
    ...scram('SCRAM-SHA-256'),
    ...scram('SCRAM-SHA-512'),
  ]);

  const logFile = join(folder, 'broker.log');
  // The broker goes when this process does, however it goes.
  const leash =
    spawnSync('setpriv', ['--version'], { stdio: 'ignore' }).status === 0 ? ['setpriv', '--pdeathsig', 'KILL'] : [];
  let broker: ChildProcess | undefined;
  const start = async () => {
    const out = openSync(logFile, 'a');
    const [command, ...args] = [...leash, 'java', ...java, 'kafka.Kafka', config];
    const child = spawn(command!, args, { stdio: ['ignore', out, out], cwd: folder });
    closeSync(out);
    broker = child;
    const until = Date.now() + 90_000;
    while (!(await answers(ports.plain)) || !(await answers(ports.secure))) {
      if (child.exitCode !== null || Date.now() > until)
        throw new Error(`the broker did not start:\n${readFileSync(logFile, 'utf8').slice(-3000)}`);
      await new Promise(resolve => setTimeout(resolve, 100));
    }
  };
  const end = async (signal: NodeJS.Signals) => {
    const child = broker;
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    const gone = new Promise(resolve => child.once('exit', resolve));
    child.kill(signal);
    await gone;
  };
  await start();
  return {
    brokers: [`127.0.0.1:${ports.plain}`],
    own: { secure: { brokers: [`127.0.0.1:${ports.secure}`], ca }, kill: () => end('SIGKILL'), start, tool },
    stop: async () => {
      await end('SIGKILL');
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

/** For a suite's clean-up check: brokers' folders that were left behind. */
export const leftovers = (): string[] => readdirSync(tmpdir()).filter(name => name.startsWith('learnd-kafka-'));
