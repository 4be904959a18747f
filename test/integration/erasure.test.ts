import assert from 'node:assert/strict';
import test from 'node:test';
import { erase, unlessErased } from '../../src/loop/ingest/erasure.ts';
import { erasedRows } from '../../src/store/erasures.ts';
import { testDatabase } from '../support/database.ts';
import { document, event, exchange, label, rows, secret, send } from '../support/ingest.ts';

test('erasure removes the rows, refuses what comes later, and its receipt names the versions', async t => {
  const db = await testDatabase(t);
  await exchange(db, 'resp_1', 'anna', 'secret question', 'answer');
  await exchange(db, 'resp_2', null, 'hers without a name', 'answer');
  await exchange(db, 'resp_3', 'bert', 'his', 'answer');
  await send(db, [
    label('Where is my card?', {}, 'one'),
    label('Where is his card?', { user: 'bert' }),
    document('The diary of Anna', { user: 'anna' }),
    event('learnd.feedback.rating', { response_id: 'resp_2', value: 1, user: 'anna' }),
  ]);
  const [first, second] = await rows(db, 'feedback');
  await db.query(`update feedback set split = 'train'`);
  await db.query(`insert into dead_letters (topic, partition, "offset", key, payload, reason) values
    ('learnd.feedback', 0, 1, 'anna', 'x', 'r'), ('learnd.feedback', 0, 2, null, '{"user":"anna"', 'r'), ('learnd.feedback', 0, 3, 'bert', '{"user":"bert"', 'r')`);
  const round = async (state: string, finished: boolean, epsilon: number) =>
    (
      await db.query<{ id: number }>(
        `insert into rounds (state, reason, actions, epsilon, finished_at) values ($1, 'test', '[]', $2, $3) returning id`,
        [state, epsilon, finished ? new Date() : null],
      )
    ).rows[0]!.id;
  const trained = await round('published', true, 0.5);
  const other = await round('published', true, 0.25);
  const running = await round('reserved', false, 0);
  for (const [id, row] of [
    [trained, first!.id],
    [trained, second!.id],
    [other, second!.id],
    [running, first!.id],
  ])
    await db.query(`insert into round_rows (round, kind, row_id) values ($1, 'feedback', $2)`, [id, row]);
  await db.query(
    `insert into ledger (id, round, entry, mechanism, delta, note, prev_hash, hash) values (1, $1, 'settle', '[]', 1e-6, '', '', '')`,
    [trained],
  );
  await db.query(
    `insert into versions (n, name, sha256, parent, round, manifest, epsilon) values (1, 'learnd', 'a', null, null, '{}', 0),
     (2, 'learnd', 'b', 1, $1, '{}', 0.5), (3, 'learnd', 'c', 2, null, '{}', 0.5), (4, 'learnd', 'd', 1, $2, '{}', 0.25)`,
    [trained, other],
  );

  const receipt = await erase(db, { user: 'anna', secret });
  assert.deepEqual(receipt.rows, { feedback: 2, documents: 1, exchanges: 2, dead_letters: 2 });
  assert.equal(receipt.running_round, running);
  assert.deepEqual(
    receipt.versions.map(({ version, role, epsilon, delta }) => ({ version, role, epsilon, delta })),
    [
      { version: 'learnd@2', role: 'trained', epsilon: 0.5, delta: 1e-6 },
      { version: 'learnd@3', role: 'inherits', epsilon: 0, delta: null },
    ],
  );
  assert.match(receipt.versions[0]!.guarantee, /user-level differential privacy.*0\.5.*0\.000001/);
  assert.equal(JSON.stringify(receipt).includes('anna'), false);
  assert.equal(await erasedRows(db, running), 1);
  assert.equal(await erasedRows(db, other), 0);

  assert.deepEqual(
    await send(db, [
      label('I am back', {}, 'two'),
      label('Where is my card?', {}, 'one'),
      label('hi', { user: 'bert' }),
    ]),
    {
      accepted: 1,
      duplicates: 0,
      rejected: [
        { index: 0, field: 'user', reason: 'erased' },
        { index: 1, field: 'user', reason: 'erased' },
      ],
    },
  );
  // The whole database is searched: her words and her name are in no table.
  const { rows: tables } = await db.query<{ name: string }>(
    `select table_name as name from information_schema.tables where table_schema = 'public'`,
  );
  for (const { name } of tables) {
    const { rows: found } = await db.query(
      `select * from ${name} t where t::text ~* 'anna|diary|secret question|hers without' or t::text ~ encode('anna', 'hex')`,
    );
    assert.deepEqual(found, [], name);
  }
  const outbox = (await db.query<{ type: string; data: unknown }>('select type, data from outbox')).rows;
  assert.deepEqual(outbox, [{ type: 'learnd.erasure.completed', data: receipt }]);

  const again = await erase(db, { user: 'anna', secret });
  assert.deepEqual(
    { ...again, running_round: null },
    { ...receipt, running_round: null },
    'asking again loses nothing',
  );
});

test('an erasure event: earlier events of the batch go, later ones are refused, a repeated one is a duplicate', async t => {
  const db = await testDatabase(t);
  const erasure = event('learnd.erasure', { user: 'anna', reason: 'asked' });
  const report = await send(db, [label('before'), label('hello', { user: 'bert' }), erasure, label('after')]);
  assert.deepEqual(report, { accepted: 3, duplicates: 0, rejected: [{ index: 3, field: 'user', reason: 'erased' }] });
  assert.deepEqual(
    (await rows(db, 'feedback')).map(row => row.user_id),
    ['bert'],
  );
  assert.equal((await send(db, [erasure], { kind: 'erasures' })).duplicates, 1);
});

test('an exchange of an erased user is not stored any more', async t => {
  const db = await testDatabase(t);
  const save = (user: string | undefined, id: string) =>
    unlessErased(db, secret, user, async tx => {
      await tx.query(`insert into facts (key, value) values ($1, 'true')`, [id]);
    });
  assert.equal(await save('anna', 'a'), true);
  await erase(db, { user: 'anna', secret });
  assert.deepEqual([await save('anna', 'b'), await save('bert', 'c'), await save(undefined, 'd')], [false, true, true]);
  assert.equal((await db.query('select key from facts')).rowCount, 3);
});

test('an erasure that runs beside ingest leaves nothing behind, whichever comes first', async t => {
  const db = await testDatabase(t);
  for (let turn = 0; turn < 10; turn++) {
    const user = `u${turn}`;
    const batches = Array.from({ length: 6 }, (_, b) =>
      send(
        db,
        Array.from({ length: 20 }, (_, i) => label(`text ${b} ${i}`, { user })),
      ),
    );
    await new Promise(resolve => setTimeout(resolve, turn));
    await erase(db, { user, secret });
    await Promise.all(batches);
    const { rows: left } = await db.query('select id from feedback where user_id = $1', [user]);
    assert.deepEqual(left, []);
  }
});
