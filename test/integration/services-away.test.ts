import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import test from 'node:test';
import { connect, type Database } from '../../src/store/database.ts';
import { startEmbedded } from '../../src/store/embedded.ts';
import { eventually, lastFirst, startTestDaemon, type TestDaemon, testFolder } from '../support/daemon.ts';
import { testLog } from '../support/database.ts';
import { documentEvents, documents } from '../support/documents.ts';
import { assertSound, killDaemon, QUICK_SETTINGS, quickPolicies } from '../support/faults.ts';

/** Services that are not there: a PostgreSQL server that comes late, goes and comes back; a leader that dies; brokers that never come. */

const freePort = (): Promise<number> =>
  new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address() as { port: number };
      server.close(() => resolve(port));
    });
  });

/** The installed PostgreSQL's folder; the embedded package's binaries where there is none. */
function binaries(): string | undefined {
  const root = '/usr/lib/postgresql';
  const versions = existsSync(root) ? readdirSync(root).filter(name => existsSync(join(root, name, 'bin/initdb'))) : [];
  const newest = versions.sort((a, b) => Number(b) - Number(a))[0];
  return newest === undefined ? undefined : join(root, newest, 'bin');
}

/** A server of its own that can be started and stopped on one port. */
async function databaseServer(t: { after(end: () => unknown): void }) {
  const data = testFolder(t, 'server');
  const port = await freePort();
  const settings = { port: String(port), fsync: 'off' };
  const start = () => startEmbedded({ data, log: testLog, settings, binaries: binaries(), initdb: ['--no-sync'] });
  let running = await start(); // makes the folder and the password
  lastFirst(t, () => running.stop());
  const url = `postgres://learnd:${readFileSync(join(data, 'pg.password'), 'utf8').trim()}@127.0.0.1:${port}/postgres`;
  return {
    url,
    stop: () => running.stop(),
    start: async () => {
      running = await start();
    },
  };
}

const readyz = async (daemon: TestDaemon): Promise<{ status: number; reasons: string }> => {
  const response = await fetch(`${daemon.url}/readyz`);
  return { status: response.status, reasons: ((await response.json()) as { reasons: string[] }).reasons.join('; ') };
};

const refusal = async (daemon: TestDaemon): Promise<string> => {
  const [event] = documentEvents(['a note about nothing much'], 'refused');
  return daemon.post('/v1/documents', event).then(
    report => assert.fail(`stored: ${JSON.stringify(report)}`),
    error => String(error),
  );
};

const answer = async (daemon: TestDaemon): Promise<{ id: string; model: string }> =>
  (await daemon.post('/v1/responses', { input: 'my parcel', max_output_tokens: 4 })) as { id: string; model: string };

const isReady = (daemon: TestDaemon, ms: number): Promise<boolean> =>
  eventually('ready', async () => ((await readyz(daemon)).status === 200 ? true : undefined), ms, 50);

test('PostgreSQL comes late, goes, comes back; a second process takes over from a killed one', {
  timeout: 300_000,
}, async t => {
  const server = await databaseServer(t);
  await server.stop();
  const start = (name: string, listening: boolean): Promise<TestDaemon> =>
    startTestDaemon(t, {
      data: testFolder(t, name),
      settings: QUICK_SETTINGS,
      policies: quickPolicies(),
      env: { DATABASE_URL: server.url, LEARND_ARTIFACTS_URL: artifacts, LEARND_ADMIN_KEY: key },
      listening,
    });
  const artifacts = testFolder(t, 'artifacts');
  const key = randomBytes(32).toString('hex');
  const first = await start('first', true);
  let db: Database;

  await t.test(
    'unreachable at the start: it lives, says why it is not ready, and comes up when the server does',
    async () => {
      assert.equal((await fetch(`${first.url}/healthz`)).status, 200);
      const { status, reasons } = await eventually(
        'the reason is told',
        async () => {
          const said = await readyz(first);
          return /ECONNREFUSED/.test(said.reasons) ? said : undefined;
        },
        60_000,
      );
      assert.equal(status, 503);
      assert.match(reasons, /PostgreSQL at postgres:\/\/learnd:\*\*\*@127\.0\.0\.1/);
      Object.assign(first, { key });
      assert.match(await refusal(first), /503/);
      await server.start();
      await isReady(first, 120_000);
      assert.equal((await answer(first)).model, 'learnd@1');
    },
  );

  await t.test(
    'gone while serving: answers go on and are stored later, events are refused with the reason',
    async () => {
      await first.post(
        '/v1/documents',
        documentEvents(documents('mail', 20, 1), 'inbox', i => `writer-${i}`),
      );
      await server.stop();
      const given = await answer(first);
      assert.equal(given.model, 'learnd@1');
      assert.match(await refusal(first), /503 .*PostgreSQL at .*(Is it running and reachable\?)/);
      const { status, reasons } = await readyz(first);
      assert.equal(status, 503);
      assert.match(reasons, /events cannot be stored: PostgreSQL at/);
      assert.equal((await fetch(`${first.url}/healthz`)).status, 200);
      await server.start();
      await isReady(first, 60_000);
      db = connect(server.url, { log: testLog, max: 2 });
      lastFirst(t, () => db.close());
      const stored = await db.query<{ n: number }>('select count(*) as n from exchanges where response_id = $1', [
        given.id,
      ]);
      assert.equal(stored.rows[0]!.n, 1, 'the answer given meanwhile is stored');
      const events = await db.query<{ n: number }>('select count(*) as n from events');
      assert.equal(events.rows[0]!.n, 20);
      assert.equal(first.process.exitCode, null);
    },
  );

  await t.test('a second process serves beside the leader, and leads when that is killed', async () => {
    const second = await start('second', false);
    assert.equal((await answer(second)).model, 'learnd@1');
    assert.ok(!/leading/.test(second.log()));
    await killDaemon(first);
    await eventually('the second leads', async () => (/leading/.test(second.log()) ? true : undefined), 60_000);
    await second.post(
      '/v1/documents',
      documentEvents(documents('mail', 240, 2), 'more', i => `reader-${i}`),
    );
    await eventually(
      'it scores what came',
      async () => {
        const { rows } = await db.query<{ n: number }>('select count(*) as n from documents where scored_at is null');
        return rows[0]!.n === 0 ? true : undefined;
      },
      120_000,
    );
    await assertSound(db);
    assert.equal(await second.stop(), 0);
  });
});

test('brokers that are not there: the daemon serves, says so, and stops', { timeout: 180_000 }, async t => {
  const port = await freePort();
  const daemon = await startTestDaemon(t, {
    data: testFolder(t, 'no-kafka'),
    settings: QUICK_SETTINGS,
    policies: quickPolicies(),
    env: { KAFKA_BROKERS: `127.0.0.1:${port}` },
  });
  assert.equal((await answer(daemon)).model, 'learnd@1');
  const report = await daemon.post(
    '/v1/documents',
    documentEvents(documents('mail', 20, 1), 'inbox', i => `writer-${i}`),
  );
  assert.deepEqual(report, { accepted: 20, duplicates: 0, rejected: [] });
  const began = Date.now();
  const status = (await daemon.get('/v1/admin/status')) as { lag: { kafka: { state: string; topics: unknown } } };
  assert.deepEqual(status.lag.kafka, { state: 'reconnecting', topics: null });
  assert.ok(Date.now() - began < 5_000, `the status took ${Date.now() - began} ms`);
  await eventually(
    'the log says what is not there',
    async () => (/learnd\.ingest\.kafka: not consuming.*127\.0\.0\.1/.test(daemon.log()) ? true : undefined),
    60_000,
  );
  const stopping = Date.now();
  assert.equal(await daemon.stop(), 0);
  t.diagnostic(`stopped within ${Date.now() - stopping} ms`);
});
