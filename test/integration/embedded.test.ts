import assert from 'node:assert/strict';
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import test, { type TestContext } from 'node:test';
import { fileURLToPath } from 'node:url';
import { sleep } from '../../src/base/clock.ts';
import { LearndError } from '../../src/base/errors.ts';
import { silentLog } from '../../src/base/log.ts';
import { connect } from '../../src/store/database.ts';
import { embeddedBinaries } from '../../src/store/embedded/binaries.ts';
import { isServerOf, postmasterPid } from '../../src/store/embedded/orphan.ts';
import { type EmbeddedPostgres, startEmbedded } from '../../src/store/embedded.ts';

const CHILD = fileURLToPath(new URL('../support/embedded-child.ts', import.meta.url));
const supported = process.platform === 'linux';

const servers = new Map<string, EmbeddedPostgres[]>();

function folder(t: TestContext): string {
  const path = mkdtempSync(join(tmpdir(), 'learnd-embedded-'));
  servers.set(path, []);
  t.after(async () => {
    for (const server of servers.get(path)!) await server.stop();
    rmSync(path, { recursive: true, force: true });
  });
  return path;
}

async function start(data: string, options: { namespaces?: boolean } = {}): Promise<EmbeddedPostgres> {
  const server = await startEmbedded({ data, log: silentLog, ...options });
  servers.get(data)!.push(server);
  return server;
}

async function ask<R>(url: string, text: string): Promise<R[]> {
  const db = connect(url, { log: silentLog, max: 1 });
  try {
    return (await db.query<R>(text)).rows;
  } finally {
    await db.close();
  }
}

const alive = (pid: number): boolean => {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
};

async function gone(pid: number, ms = 10_000): Promise<void> {
  for (const until = Date.now() + ms; Date.now() < until; await sleep(10)) if (!alive(pid)) return;
  assert.fail(`process ${pid} still lives`);
}

/** The inserting child; `rows(n)` resolves once n rows were acknowledged. */
async function inserting(data: string) {
  const child: ChildProcess = spawn(process.execPath, ['--import', 'tsx', CHILD, data], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  servers.get(data)!.push({ url: '', pid: undefined, stop: async () => void child.kill('SIGKILL') });
  let pid = 0;
  let url = '';
  let acknowledged = 0;
  createInterface({ input: child.stdout! }).on('line', line => {
    const [word, ...rest] = line.split(' ');
    if (word === 'up') [pid, url] = [Number(rest[0]), rest[1]!];
    else acknowledged = Number(line);
  });
  const rows = async (n: number): Promise<void> => {
    for (const until = Date.now() + 20_000; acknowledged < n; await sleep(5)) {
      assert.ok(Date.now() < until, `only ${acknowledged} rows`);
      assert.equal(child.exitCode, null, 'the child ended');
    }
  };
  await rows(1);
  return { child, rows, url, pid, acknowledged: () => acknowledged };
}

test('first start, clean stop, warm start under a second, password for us alone', { skip: !supported }, async t => {
  const data = folder(t);
  const first = await startEmbedded({ data, log: silentLog });
  await ask(first.url, `create table kept as select 42 as n`);
  const { hostname } = new URL(first.url);
  assert.equal(hostname, '127.0.0.1');
  assert.equal(statSync(join(data, 'pg.password')).mode & 0o777, 0o600);
  assert.equal(statSync(join(data, 'pg')).mode & 0o777, 0o700);
  const wrong = new URL(first.url);
  wrong.password = 'x';
  await assert.rejects(ask(wrong.toString(), 'select 1'), /password authentication failed/);
  const settings = await ask<{ name: string; setting: string }>(
    first.url,
    `select name, setting from pg_settings where name in ('fsync', 'synchronous_commit', 'server_encoding') order by 1`,
  );
  assert.deepEqual(
    settings.map(({ setting }) => setting),
    ['on', 'UTF8', 'on'],
  );
  const pid = first.pid!;
  await first.stop();
  assert.ok(!alive(pid));
  assert.ok(!existsSync(join(data, 'pg', 'postmaster.pid')), 'a clean stop removes its own lock file');

  let second = first;
  let ms = Number.POSITIVE_INFINITY;
  // One warm start that is quick shows that it can be; the others measure who else is busy.
  for (let n = 0; n < 5 && ms >= 1_000; n++) {
    await second.stop();
    const begun = performance.now();
    second = await start(data);
    ms = Math.min(ms, performance.now() - begun);
  }
  assert.ok(ms < 1_000, `warm start took ${ms} ms`);
  t.diagnostic(`warm start ${ms.toFixed(0)} ms`);
  assert.deepEqual(await ask(second.url, 'select n from kept'), [{ n: 42 }]);
});

test('a killed first start leaves nothing that the next one trips over', { skip: !supported }, async t => {
  const data = folder(t);
  // What initdb leaves when it is killed: some files, PG_VERSION among them; 4194303 is above any process here.
  mkdirSync(join(data, 'pg.init-4194303', 'base'), { recursive: true });
  writeFileSync(join(data, 'pg.init-4194303', 'PG_VERSION'), '18\n');
  const server = await start(data);
  assert.deepEqual(await ask(server.url, 'select 1 as one'), [{ one: 1 }]);
  assert.deepEqual(readdirSync(data).sort(), ['pg', 'pg.owner', 'pg.password']);
});

test('a second daemon on the same data directory is refused', { skip: !supported }, async t => {
  const data = folder(t);
  const running = await inserting(data);
  await assert.rejects(startEmbedded({ data, log: silentLog }), (error: unknown) => {
    assert.ok(error instanceof LearndError && error.code === 'conflict');
    assert.match(error.message, new RegExp(`process ${running.child.pid}\\b`));
    return true;
  });
  await running.rows(running.acknowledged() + 5);
  running.child.kill('SIGKILL');
  await gone(running.pid);
});

test('kill -9 of the server while rows go in: it comes back by itself, no acknowledged row is lost', {
  skip: !supported,
}, async t => {
  const data = folder(t);
  const server = await start(data);
  const { port } = new URL(server.url);
  const db = connect(server.url, { log: silentLog, max: 4 });
  t.after(() => db.close());
  await db.query('create table acknowledged (n int primary key)');
  const acknowledged: number[] = [];
  const stopped = new AbortController();
  let next = 0;
  const writers = Array.from({ length: 4 }, async () => {
    while (!stopped.signal.aborted) {
      const n = ++next;
      try {
        await db.query('insert into acknowledged values ($1)', [n]);
        acknowledged.push(n);
      } catch (error) {
        assert.ok(error instanceof LearndError && error.code === 'dependency' && error.retriable, String(error));
        await sleep(20);
      }
    }
  });
  for (let round = 1; round <= 3; round++) {
    const enough = acknowledged.length + 100;
    for (const until = Date.now() + 15_000; acknowledged.length < enough; await sleep(5))
      assert.ok(Date.now() < until, `round ${round}: only ${acknowledged.length} rows`);
    const before = server.pid!;
    process.kill(before, 'SIGKILL');
    for (const until = Date.now() + 15_000; server.pid === undefined || server.pid === before; await sleep(5))
      assert.ok(Date.now() < until, 'it did not come back');
  }
  const enough = acknowledged.length + 20;
  for (const until = Date.now() + 15_000; acknowledged.length < enough; await sleep(5)) assert.ok(Date.now() < until);
  stopped.abort();
  await Promise.all(writers);
  const { rows } = await db.query<{ n: number }>('select n from acknowledged');
  const stored = new Set(rows.map(({ n }) => n));
  assert.deepEqual(
    acknowledged.filter(n => !stored.has(n)),
    [],
  );
  assert.equal(new URL(server.url).port, port);
  t.diagnostic(`${acknowledged.length} rows acknowledged over 3 kills, ${stored.size} stored`);
});

test('kill -9 of the daemon: the server ends with it, and the next start has every acknowledged row', {
  skip: !supported,
}, async t => {
  const data = folder(t);
  const running = await inserting(data);
  await running.rows(200);
  running.child.kill('SIGKILL');
  await gone(running.pid);
  await sleep(50); // the last numbers are still in the pipe
  const server = await start(data);
  const rows = await ask<{ n: number }>(server.url, 'select count(*) as n from acknowledged');
  assert.ok(rows[0]!.n >= running.acknowledged(), `${rows[0]!.n} stored, ${running.acknowledged()} acknowledged`);
});

test('a server left behind is ended and its rows are there', { skip: !supported }, async t => {
  const data = folder(t);
  const running = await inserting(data);
  await running.rows(50);
  // Stopped, the server cannot act on the signal that its parent's death sends it: it is an orphan, holding lock and port.
  process.kill(running.pid, 'SIGSTOP');
  running.child.kill('SIGKILL');
  await gone(running.child.pid!);
  assert.ok(isServerOf(postmasterPid(join(data, 'pg'))!, join(data, 'pg')));
  const continues = setTimeout(() => process.kill(running.pid, 'SIGCONT'), 300);
  const server = await start(data);
  clearTimeout(continues);
  assert.ok(!alive(running.pid) || server.pid !== running.pid);
  const rows = await ask<{ n: number }>(server.url, 'select count(*) as n from acknowledged');
  assert.ok(rows[0]!.n >= running.acknowledged());
});

test('where user namespaces are closed, root runs it under another uid on a folder of that uid', {
  skip: process.getuid?.() !== 0 && 'only root has this case',
}, async t => {
  const data = folder(t);
  chmodSync(data, 0o755);
  const reachable = spawnSync('setpriv', ['--reuid', '65534', 'test', '-x', join(embeddedBinaries(), 'postgres')]);
  if (reachable.status !== 0) return t.skip('the checkout lies in a folder that other users cannot enter');
  const first = await start(data, { namespaces: false });
  assert.equal(statSync(join(data, 'pg')).uid, 65534);
  assert.equal(statSync(join(data, 'pg')).mode & 0o777, 0o700);
  assert.equal(statSync(join(data, 'pg.password')).uid, 0);
  assert.match(readFileSync(`/proc/${first.pid}/status`, 'utf8'), /^Uid:\s+65534\s+65534/m);
  await ask(first.url, 'create table kept as select 7 as n');
  await first.stop();
  // The folder keeps its owner, namespaces or not.
  const second = await start(data);
  assert.match(readFileSync(`/proc/${second.pid}/status`, 'utf8'), /^Uid:\s+65534\s+65534/m);
  assert.deepEqual(await ask(second.url, 'select n from kept'), [{ n: 7 }]);
});

test('elsewhere than on Linux it says what to set', () => {
  assert.throws(
    () => embeddedBinaries('win32', 'x64'),
    (error: unknown) =>
      error instanceof LearndError && error.code === 'dependency' && /DATABASE_URL/.test(error.hint ?? ''),
  );
});
