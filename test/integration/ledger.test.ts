import assert from 'node:assert/strict';
import test from 'node:test';
import { LearndError } from '../../src/base/errors.ts';
import { epsilon } from '../../src/learn/privacy/accountant.ts';
import type { Mechanism } from '../../src/learn/privacy/mechanism.ts';
import type { Database } from '../../src/store/database.ts';
import {
  declare,
  type LedgerRow,
  listLedger,
  reserve,
  settle,
  spent,
  unsettled,
  verifyLedger,
} from '../../src/store/ledger.ts';
import { type TestDatabase, testDatabase, testServers } from '../support/database.ts';

const delta = 1e-6;
const compose = (mechanisms: readonly Mechanism[], at: number) => epsilon(mechanisms, at, 'rdp');
const mechanism = (noise_multiplier: number, steps: number): Mechanism => ({
  noise_multiplier,
  sample_rate: 0.05,
  steps,
});

/** A finished round, for the rows that name it. */
async function round(db: Database): Promise<number> {
  const { rows } = await db.query<{ id: number }>(
    `insert into rounds (state, reason, actions, finished_at) values ('published', 'test', '[]', now()) returning id`,
  );
  return rows[0]!.id;
}

const ask = (db: TestDatabase, id: number, mechanisms: readonly Mechanism[], limit: number, windowMs?: number) =>
  db.tx(tx => reserve(tx, { round: id, mechanisms, delta, limit, windowMs, compose }));

for (const server of testServers()) {
  test(`${server}: reservations compose with what is settled; beyond the limit they are refused`, async t => {
    const db = await testDatabase(t, { server });
    const [a, b] = [mechanism(1.2, 200), mechanism(1.0, 300)];
    const [first, second] = [await round(db), await round(db)];
    const one = await ask(db, first, [a], 8);
    assert.equal(one.epsilon_total, compose([a], delta));
    const together = compose([a, b], delta);
    assert.ok(together < compose([a], delta) + compose([b], delta), 'composition is tighter than the sum');

    await assert.rejects(ask(db, second, [b], together - 0.001), (error: unknown) => {
      assert.ok(error instanceof LearndError && error.code === 'budget_exhausted' && !error.retriable);
      assert.deepEqual(error.data, {
        spent: compose([a], delta),
        asked: compose([b], delta),
        total: together,
        limit: together - 0.001,
        delta,
        lifetime: compose([a], delta),
      });
      assert.match(error.message, /epsilon [\d.]+ is spent or reserved, it asks for [\d.]+,.*the limit is [\d.]+ at/);
      return true;
    });
    assert.equal((await ask(db, second, [b], together)).epsilon_total, together);
    await assert.rejects(ask(db, second, [b], 100), { code: 'conflict' });
    assert.deepEqual(await unsettled(db), [first, second]);

    // The first released less than it had reserved; the second ended before its first step.
    const less = mechanism(1.2, 150);
    await db.tx(tx => settle(tx, { round: first, mechanisms: [less], delta, compose }));
    assert.equal((await spent(db, { delta, compose })).epsilon, compose([less, b], delta));
    const last = await db.tx(tx => settle(tx, { round: second, mechanisms: [], delta, compose }));
    assert.equal(last.epsilon_total, compose([less], delta));
    assert.deepEqual((await spent(db, { delta, compose })).mechanisms, [less]);
    await assert.rejects(
      db.tx(tx => settle(tx, { round: second, mechanisms: [], delta, compose })),
      { code: 'conflict' },
    );
    const never = await round(db);
    await assert.rejects(
      db.tx(tx => settle(tx, { round: never, mechanisms: [], delta, compose })),
      { code: 'conflict' },
    );
    assert.deepEqual(await unsettled(db), []);
    assert.deepEqual(
      (await listLedger(db)).map(({ id, entry }) => [id, entry]),
      [
        [4, 'settle'],
        [3, 'settle'],
        [2, 'reserve'],
        [1, 'reserve'],
      ],
    );
  });

  test(`${server}: of many that reserve at once, only as many as fit get through`, async t => {
    const db = await testDatabase(t, { server, max: 8 });
    const each = mechanism(1.0, 100);
    const limit = compose([each, each, each], delta) + 1e-9;
    const ids = await Promise.all(Array.from({ length: 8 }, () => round(db)));
    const results = await Promise.allSettled(ids.map(id => ask(db, id, [each], limit)));
    assert.equal(results.filter(({ status }) => status === 'fulfilled').length, 3);
    assert.ok(Math.abs((await spent(db, { delta, compose })).epsilon - limit) < 1e-6);
    assert.deepEqual(await verifyLedger(db), {
      ok: true,
      rows: 3,
      head: (await listLedger(db, 1))[0]!.hash,
    });
  });

  test(`${server}: a rolled-back reservation is not there, and leaves no gap in the chain`, async t => {
    const db = await testDatabase(t, { server });
    const id = await round(db);
    await assert.rejects(
      db.tx(async tx => {
        await reserve(tx, { round: id, mechanisms: [mechanism(1, 10)], delta, limit: 8, compose });
        throw new Error('view could not be frozen');
      }),
    );
    assert.equal((await spent(db, { delta, compose })).epsilon, 0);
    await db.tx(tx => declare(tx, { what: 'drift trigger', why: 'a decision on private data without noise' }));
    const verified = await verifyLedger(db);
    assert.ok(verified.ok && verified.rows === 1);
  });

  test(`${server}: with a window, what is older limits nothing and is shown; an open reservation counts for ever`, async t => {
    const db = await testDatabase(t, { server });
    const each = mechanism(1.0, 100);
    const [first, second, third] = [await round(db), await round(db), await round(db)];
    const limit = compose([each], delta) * 1.01;
    await ask(db, first, [each], limit);
    await new Promise(resolve => setTimeout(resolve, 30));
    await assert.rejects(ask(db, second, [each], limit, 20), { code: 'budget_exhausted' });
    await db.tx(tx => settle(tx, { round: first, mechanisms: [each], delta, compose }));
    await assert.rejects(ask(db, second, [each], limit, 60_000), { code: 'budget_exhausted' });
    await new Promise(resolve => setTimeout(resolve, 30));
    const row = await ask(db, second, [each], limit, 20);
    assert.equal(row.epsilon_total, compose([each, each], delta));
    const now = await spent(db, { delta, compose, windowMs: 20 });
    assert.equal(now.epsilon, compose([each, each], delta));
    assert.equal(now.window, compose([each], delta));
    await assert.rejects(ask(db, third, [each], limit), { code: 'budget_exhausted' });
  });

  test(`${server}: no row can be changed or removed, and whoever forces it is found out`, async t => {
    const db = await testDatabase(t, { server });
    const ids = [await round(db), await round(db), await round(db)];
    for (const id of ids) await ask(db, id, [mechanism(1.1, 50)], 8);
    await db.tx(tx => declare(tx, { round: ids[0], what: 'gate', why: 'figures of held-out users' }));
    for (const text of [
      `update ledger set note = 'x' where id = 2`,
      'delete from ledger where id = 4',
      'truncate ledger',
    ])
      await assert.rejects(db.query(text), /the ledger is append-only/);
    assert.ok((await verifyLedger(db)).ok);

    const force = async (text: string): Promise<Awaited<ReturnType<typeof verifyLedger>>> => {
      const { rows } = await db.query<LedgerRow>('select * from ledger order by id');
      await db.query('alter table ledger disable trigger user');
      await db.query(text);
      const verified = await verifyLedger(db);
      await db.query('delete from ledger');
      for (const row of rows)
        await db.query('insert into ledger select * from jsonb_populate_record(null::ledger, $1)', [
          JSON.stringify(row),
        ]);
      await db.query('alter table ledger enable trigger user');
      assert.ok((await verifyLedger(db)).ok, 'restored');
      return verified;
    };
    const fewer = `jsonb_set(mechanism, '{0,steps}', '1')`;
    const content = 'its content is not what was hashed';
    assert.deepEqual(await force(`update ledger set mechanism = ${fewer} where id = 2`), {
      ok: false,
      row: 2,
      reason: content,
    });
    assert.deepEqual(await force('update ledger set delta = 1e-5 where id = 1'), {
      ok: false,
      row: 1,
      reason: content,
    });
    assert.deepEqual(await force('delete from ledger where id = 2'), { ok: false, row: 2, reason: 'row 2 is missing' });
    const forged = await force(`update ledger set mechanism = ${fewer}, hash = repeat('a', 64) where id = 3`);
    assert.deepEqual(forged, { ok: false, row: 3, reason: content });
  });
}
