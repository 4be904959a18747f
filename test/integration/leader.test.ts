import assert from 'node:assert/strict';
import test from 'node:test';
import { sleep } from '../../src/base/clock.ts';
import { silentLog } from '../../src/base/log.ts';
import { connect } from '../../src/store/database.ts';
import { campaign, checkFence, tryLead } from '../../src/store/leader.ts';
import { insertVersion, setAlias } from '../../src/store/versions.ts';
import { testDatabase, testServers } from '../support/database.ts';
import { manifest } from '../support/manifest.ts';

const cutLeader = `select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory' and granted
  and database = (select oid from pg_database where datname = current_database()) and objid = 514064386`;

async function until(what: string, done: () => boolean): Promise<void> {
  for (let n = 0; n < 3_000; n++) {
    if (done()) return;
    await sleep(10);
  }
  assert.fail(`never happened: ${what}`);
}

for (const server of testServers()) {
  test(`${server}: one leads; the next gets a larger token`, async t => {
    const db = await testDatabase(t, { server });
    const all = await Promise.all(Array.from({ length: 5 }, () => tryLead(db, silentLog)));
    const leaders = all.filter(leader => leader !== undefined);
    assert.equal(leaders.length, 1);
    const first = leaders[0]!;
    assert.equal(await tryLead(db, silentLog), undefined);
    await checkFence(db, first.fence);
    await first.release();
    assert.ok(first.lost.aborted);
    const second = (await tryLead(db, silentLog))!;
    assert.ok(second.fence > first.fence);
    await assert.rejects(checkFence(db, first.fence), { code: 'conflict' });
    await second.release();
  });

  test(`${server}: a lost session is lost leadership, and what the old leader writes is refused`, async t => {
    const db = await testDatabase(t, { server });
    const old = (await tryLead(db, silentLog))!;
    const one = await db.tx(tx => insertVersion(tx, manifest(1)));
    const two = await db.tx(tx => insertVersion(tx, manifest(2)));
    assert.equal((await db.query(cutLeader)).rowCount, 1);
    await until('the leader knows', () => old.lost.aborted);
    const fresh = (await tryLead(db, silentLog))!;
    await db.tx(tx => setAlias(tx, { alias: 'champion', version: two.n, reason: 'new', fence: fresh.fence }));
    await assert.rejects(
      db.tx(tx => setAlias(tx, { alias: 'champion', version: one.n, reason: 'late', fence: old.fence })),
      { code: 'conflict' },
    );
    const { rows } = await db.query('select version, fence from aliases');
    assert.deepEqual(rows, [{ version: two.n, fence: fresh.fence }]);
    await fresh.release();
  });

  test(`${server}: of two campaigns one works at a time, and the other takes over`, async t => {
    const db = await testDatabase(t, { server });
    const other = connect(db.url, { log: silentLog, max: 1 });
    const working = new Set<string>();
    const fences: number[] = [];
    const run = (name: string, on: typeof other) =>
      campaign(on, {
        log: silentLog,
        everyMs: 20,
        work: async ({ fence, signal }) => {
          assert.equal(working.size, 0, 'two leaders at once');
          working.add(name);
          fences.push(fence);
          await new Promise<void>(resolve => signal.addEventListener('abort', () => resolve(), { once: true }));
          working.delete(name);
        },
      });
    const [a, b] = [run('a', db), run('b', other)];
    await until('a leader', () => working.size === 1);
    for (let n = 2; n <= 4; n++) {
      assert.equal((await db.query(cutLeader)).rowCount, 1);
      await until(`leader ${n}`, () => fences.length === n && working.size === 1);
    }
    await a.stop();
    await until('b leads alone', () => working.has('b'));
    await b.stop();
    await other.close();
    assert.deepEqual(
      fences,
      [...fences].sort((x, y) => x - y),
    );
    assert.equal(new Set(fences).size, fences.length);
  });
}
