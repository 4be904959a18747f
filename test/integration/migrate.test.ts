import assert from 'node:assert/strict';
import test from 'node:test';
import { LearndError } from '../../src/base/errors.ts';
import { connect } from '../../src/store/database.ts';
import { type Migration, migrate, readMigrations } from '../../src/store/migrate.ts';
import { testDatabase, testLog, testServers } from '../support/database.ts';

const made = (n: number, sql: string): Migration => ({ n, name: `m${n}`, sql, sha256: `sha-${sql}` });

for (const server of testServers()) {
  test(`${server}: of 20 that start at once one migrates, and all find the schema`, async t => {
    const first = await testDatabase(t, { server, empty: true });
    const starters = Array.from({ length: 20 }, () => connect(first.url, { log: testLog, max: 1 }));
    try {
      const results = await Promise.all(starters.map(db => migrate(db)));
      const all = readMigrations().map(({ n }) => n);
      assert.deepEqual(
        results.filter(({ applied }) => applied.length > 0).map(({ applied }) => applied),
        [all],
      );
      const { rows } = await first.query('select n, sha256 from schema_migrations order by n');
      assert.deepEqual(
        rows,
        readMigrations().map(({ n, sha256 }) => ({ n, sha256 })),
      );
    } finally {
      await Promise.all(starters.map(db => db.close()));
    }
  });

  test(`${server}: a newer schema, and one applied with other content, are refused`, async t => {
    const db = await testDatabase(t, { server });
    const known = readMigrations();
    const next = made(known.length + 1, 'create table later (x int)');
    assert.deepEqual((await migrate(db, { migrations: [...known, next] })).applied, [next.n]);
    await assert.rejects(migrate(db), (error: unknown) => {
      assert.ok(error instanceof LearndError && error.code === 'conflict' && !error.retriable);
      assert.match(error.message, new RegExp(`schema ${next.n}, this program knows schemas up to ${known.length}`));
      return true;
    });
    await assert.rejects(migrate(db, { migrations: [...known, made(next.n, 'select 1')] }), { code: 'corrupt' });
  });

  test(`${server}: a migration that fails leaves the schema as it was and says where`, async t => {
    const db = await testDatabase(t, { server, empty: true });
    const migrations = [
      made(1, 'create table one (x int)'),
      made(2, 'create table two (x int);\ncreate tabel three ()'),
    ];
    await assert.rejects(migrate(db, { migrations }), /migration 2_m2\.sql:2: syntax error/);
    const { rows } = await db.query(`select to_regclass('one') as one, to_regclass('schema_migrations') as m`);
    assert.deepEqual(rows, [{ one: null, m: null }]);
  });
}

test('migrations are numbered without a gap', () => {
  const all = readMigrations();
  assert.deepEqual(
    all.map(({ n }) => n),
    all.map((_, index) => index + 1),
  );
  assert.match(all[0]!.sha256, /^[0-9a-f]{64}$/);
});
