import assert from 'node:assert/strict';
import test from 'node:test';
import { CHANNEL, notify } from '../../src/store/database.ts';
import { testDatabase, testServers } from '../support/database.ts';

for (const server of testServers()) {
  test(`${server}: query, tx, rollback`, async t => {
    const db = await testDatabase(t, { server });
    const { rows } = await db.query<{ n: number }>('select count(*) as n from events');
    assert.deepEqual(rows, [{ n: 0 }]);
  });
  test(`${server}: notifications arrive on commit`, async t => {
    const db = await testDatabase(t, { server });
    const seen: string[] = [];
    const stop = await db.listen(CHANNEL, payload => seen.push(payload));
    await db.tx(async tx => {
      await notify(tx, 'alias');
    });
    for (let i = 0; i < 100 && seen.length === 0; i++) await new Promise(r => setTimeout(r, 10));
    assert.deepEqual(seen, ['alias']);
    await stop();
  });
}
