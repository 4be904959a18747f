import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, type TestContext } from 'node:test';
import { createLog, type Log } from '../../src/base/log.ts';
import { connect, type Database } from '../../src/store/database.ts';
import { startEmbedded } from '../../src/store/embedded.ts';
import { migrate } from '../../src/store/migrate.ts';

/**
 * Databases for tests. One server a test process: the embedded PostgreSQL, or a PostgreSQL server as an operator would have
 * one (LEARND_TEST_DATABASE_URL, else the newest below /usr/lib/postgresql). Every test gets a database of its own, cloned
 * from a migrated template.
 */
export type ServerKind = 'embedded' | 'server';

export interface TestDatabase extends Database {
  readonly url: string;
}

interface Server {
  readonly url: string;
  readonly template: string;
  stop(): Promise<void>;
}

export const testLog: Log = createLog({
  level: process.env.LEARND_TEST_LOG === 'debug' ? 'debug' : 'error',
  where: 'test',
});

/** The folder with `initdb` and `postgres` of an installed PostgreSQL server. */
function installedServer(): string | undefined {
  const root = '/usr/lib/postgresql';
  const versions = existsSync(root) ? readdirSync(root).filter(name => existsSync(join(root, name, 'bin/initdb'))) : [];
  const newest = versions.sort((a, b) => Number(b) - Number(a))[0];
  return newest === undefined ? undefined : join(root, newest, 'bin');
}

/** Why tests cannot run on this kind of server; undefined: they can. */
export function missingServer(kind: ServerKind): string | undefined {
  if (kind === 'embedded' || process.env.LEARND_TEST_DATABASE_URL || installedServer()) return undefined;
  return 'no PostgreSQL server: set LEARND_TEST_DATABASE_URL or install one below /usr/lib/postgresql';
}

const databaseUrl = (server: string, name: string): string => {
  const url = new URL(server);
  url.pathname = `/${name}`;
  return url.toString();
};

async function startServer(kind: ServerKind): Promise<Server> {
  const template = `learnd_template_${process.pid}`;
  const given = kind === 'server' ? process.env.LEARND_TEST_DATABASE_URL : undefined;
  let url = given;
  let stop: () => Promise<void> = async () => undefined;
  if (url === undefined) {
    const data = mkdtempSync(join(tmpdir(), 'learnd-test-'));
    const server = await startEmbedded({
      data,
      log: testLog,
      binaries: kind === 'server' ? installedServer() : undefined,
      // A test's data need not survive the machine.
      settings: { fsync: 'off', full_page_writes: 'off' },
      initdb: ['--no-sync'],
    });
    url = server.url;
    stop = async () => {
      await server.stop();
      rmSync(data, { recursive: true, force: true });
    };
  }
  const admin = connect(url, { log: testLog, max: 1 });
  await admin.query(`create database ${template}`);
  const db = connect(databaseUrl(url, template), { log: testLog, max: 1 });
  await migrate(db);
  await db.close();
  return {
    url,
    template,
    stop: async () => {
      if (given !== undefined) await admin.query(`drop database if exists ${template}`);
      await admin.close();
      await stop();
    },
  };
}

const servers = new Map<ServerKind, Promise<Server>>();
let count = 0;

after(async () => {
  for (const server of servers.values()) {
    const started = await server.catch(() => undefined); // a failed start has failed its test already
    await started?.stop();
  }
});

/**
 * A fresh migrated database, dropped after the test; a client the test did not give back fails it.
 * Skips the test loudly where the kind of server asked for is missing, and fails it under CI=true.
 * @param options.server default: LEARND_TEST_SERVER, else the embedded one
 * @param options.empty without the schema
 */
export async function testDatabase(
  t: Pick<TestContext, 'after' | 'skip'>,
  options: { server?: ServerKind; empty?: boolean; max?: number; log?: Log } = {},
): Promise<TestDatabase> {
  const kind = options.server ?? (process.env.LEARND_TEST_SERVER as ServerKind | undefined) ?? 'embedded';
  const missing = missingServer(kind);
  if (missing !== undefined) throw new Error(missing);
  let starting = servers.get(kind);
  if (!starting) {
    starting = startServer(kind);
    servers.set(kind, starting);
  }
  const server = await starting;
  const name = `learnd_test_${process.pid}_${++count}`;
  const admin = connect(server.url, { log: testLog, max: 1 });
  await admin.query(`create database ${name}${options.empty ? '' : ` template ${server.template}`}`);
  const url = databaseUrl(server.url, name);
  const db = connect(url, { log: options.log ?? testLog, max: options.max });
  t.after(async () => {
    const { busy } = db;
    if (busy === 0) await db.close();
    await admin.query(`drop database ${name} with (force)`);
    await admin.close();
    if (busy !== 0) throw new Error(`${busy} database client(s) were taken from the pool and not given back`);
  });
  return Object.defineProperty(db, 'url', { value: url, enumerable: true }) as TestDatabase;
}

/** For suites that must hold on both: `for (const server of testServers(t)) …`; says loudly what is left out, fails under CI=true. */
export function testServers(): ServerKind[] {
  const missing = missingServer('server');
  if (missing === undefined) return ['embedded', 'server'];
  if (process.env.CI === 'true') throw new Error(missing);
  process.stderr.write(`\nSKIPPED: the suite on a PostgreSQL server: ${missing}\n\n`);
  return ['embedded'];
}
