import assert from 'node:assert/strict';
import { createServer } from 'node:net';
import test from 'node:test';
import { sleep } from '../../src/base/clock.ts';
import { LearndError } from '../../src/base/errors.ts';
import { silentLog } from '../../src/base/log.ts';
import { CHANNEL, connect, json, notify, storable, waitForDatabase } from '../../src/store/database.ts';
import { testDatabase, testServers } from '../support/database.ts';

const until = async (what: string, done: () => boolean): Promise<void> => {
  for (let n = 0; n < 3_000; n++) {
    if (done()) return;
    await sleep(10);
  }
  assert.fail(`never happened: ${what}`);
};

const dependency = (retriable: boolean) => (error: unknown) =>
  error instanceof LearndError && error.code === 'dependency' && error.retriable === retriable;

for (const server of testServers()) {
  test(`${server}: values come back as documented`, async t => {
    const db = await testDatabase(t, { server });
    const { rows } = await db.query(
      `select 9007199254740991::int8 as big, count(*) as none, '{"a":[1]}'::jsonb as j, '\\x00ff'::bytea as b,
         timestamptz '2026-01-02 03:04:05.678Z' as at, 0.1::float8 as f, array['x'] as l from events`,
    );
    assert.deepEqual(rows, [
      {
        big: 9007199254740991,
        none: 0,
        j: { a: [1] },
        b: Buffer.from([0, 255]),
        at: new Date('2026-01-02T03:04:05.678Z'),
        f: 0.1,
        l: ['x'],
      },
    ]);
    const odd = { text: 'a\0b\ud800c', list: ['\udc00', '😀', 'a\\u0000'] };
    const back = await db.query<{ v: unknown }>('select $1::jsonb as v', [json(odd)]);
    assert.deepEqual(back.rows[0]!.v, { text: 'a\uFFFDb\uFFFDc', list: ['\uFFFD', '😀', 'a\\u0000'] });
    assert.equal(storable('😀\0'), '😀\uFFFD');
    await assert.rejects(
      db.query('select $1::text', ['a\0b']),
      (error: unknown) => error instanceof LearndError && error.code === 'invalid',
    );
  });

  test(`${server}: a transaction commits whole, or leaves nothing`, async t => {
    const db = await testDatabase(t, { server });
    await db.tx(tx => tx.query(`insert into facts values ('a', '1')`));
    await assert.rejects(
      db.tx(async tx => {
        await tx.query(`insert into facts values ('b', '2')`);
        throw new Error('no');
      }),
      /^Error: no$/,
    );
    await assert.rejects(
      db.tx(tx => tx.query(`insert into facts values ('a', '1')`)),
      { code: '23505' },
    );
    assert.deepEqual((await db.query('select key from facts')).rows, [{ key: 'a' }]);
    assert.equal(db.busy, 0);
  });

  test(`${server}: serialization failures and deadlocks are tried again`, async t => {
    const db = await testDatabase(t, { server });
    await db.query(`insert into facts values ('n', '0'), ('m', '0')`);
    let tries = 0;
    // All have read before the first one writes, so three of them come too late.
    let read = 0;
    let go = (): void => undefined;
    const allHaveRead = new Promise<void>(resolve => {
      go = resolve;
    });
    await Promise.all(
      Array.from({ length: 4 }, () =>
        db.tx(
          async tx => {
            tries += 1;
            const { rows } = await tx.query<{ value: number }>(`select value from facts where key = 'n'`);
            if (++read === 4) go();
            await allHaveRead;
            await tx.query(`update facts set value = to_jsonb($1::int) where key = 'n'`, [rows[0]!.value + 1]);
          },
          { isolation: 'serializable' },
        ),
      ),
    );
    assert.deepEqual((await db.query(`select value from facts where key = 'n'`)).rows, [{ value: 4 }]);
    assert.ok(tries > 4, `${tries} tries`);
    const both = (first: string, second: string) =>
      db.tx(async tx => {
        await tx.query('select 1 from facts where key = $1 for update', [first]);
        await sleep(50);
        await tx.query('select 1 from facts where key = $1 for update', [second]);
      });
    await Promise.all([both('n', 'm'), both('m', 'n')]);
  });

  test(`${server}: notifications arrive on commit only, and again after the session was cut`, async t => {
    const db = await testDatabase(t, { server });
    const seen: string[] = [];
    const stop = await db.listen(CHANNEL, payload => seen.push(payload));
    await assert.rejects(
      db.tx(async tx => {
        await notify(tx, 'round');
        throw new Error('rolled back');
      }),
    );
    await db.tx(tx => notify(tx, 'alias'));
    await until('the first notification', () => seen.length > 0);
    assert.deepEqual(seen, ['alias']);
    const { rowCount } = await db.query(
      `select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and query ilike 'listen%'`,
    );
    assert.equal(rowCount, 1);
    for (let n = 0; n < 1_500 && seen.length < 2; n++) {
      await notify(db, 'policy');
      await sleep(20);
    }
    assert.equal(seen[1], 'policy');
    await stop();
    const before = seen.length;
    await notify(db, 'events');
    await sleep(50);
    assert.equal(seen.length, before);
  });

  test(`${server}: a client cut off in a transaction is an error to its caller and to nobody else`, async t => {
    const db = await testDatabase(t, { server });
    await assert.rejects(
      db.tx(async tx => {
        const { rows } = await tx.query<{ pid: number }>('select pg_backend_pid() as pid');
        await db.query('select pg_terminate_backend($1)', [rows[0]!.pid]);
        await sleep(30);
        await tx.query('select 1');
      }),
      dependency(true),
    );
    assert.deepEqual((await db.query('select 1 as one')).rows, [{ one: 1 }]);
  });

  test(`${server}: a wrong password is told at once, without the password`, async t => {
    const db = await testDatabase(t, { server });
    const url = new URL(db.url);
    url.password = 'not-the-password';
    const wrong = connect(url.toString(), { log: silentLog });
    const waits: string[] = [];
    const log = { ...silentLog, warn: (message: string) => waits.push(message) };
    await assert.rejects(waitForDatabase(wrong, { log }), (error: unknown) => {
      assert.ok(dependency(false)(error));
      assert.match((error as Error).message, /password authentication failed/);
      assert.doesNotMatch((error as Error).message, /not-the-password/);
      return true;
    });
    assert.deepEqual(waits, [], 'nothing is waited for');
    await wrong.close();
  });
}

test('an unreachable server is waited for, then told', async () => {
  const taken = createServer().listen(0, '127.0.0.1');
  await new Promise(resolve => taken.once('listening', resolve));
  const { port } = taken.address() as { port: number };
  await new Promise(resolve => taken.close(resolve));
  const lines: string[] = [];
  const log = { ...silentLog, warn: (message: string) => lines.push(message) };
  const db = connect(`postgres://u:p@127.0.0.1:${port}/d`, { log: silentLog });
  await assert.rejects(waitForDatabase(db, { log, forMs: 300 }), dependency(true));
  assert.deepEqual(lines, ['waiting for the database']);
  await db.close();
});
