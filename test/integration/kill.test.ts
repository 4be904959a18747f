import assert from 'node:assert/strict';
import test from 'node:test';
import type { Database } from '../../src/store/database.ts';
import { eventually, startTestDaemon, type TestDaemon, testFolder } from '../support/daemon.ts';
import { documentEvents, documents } from '../support/documents.ts';
import {
  assertSound,
  killDaemon,
  newestRound,
  QUICK_SETTINGS,
  quickPolicies,
  type RoundState,
  roundIs,
  withDatabase,
} from '../support/faults.ts';

/**
 * kill -9 of the daemon, again and again in the life of one deployment: while events come in, while a private round trains, while it
 * is measured, in the transaction that promotes, and right after it. Nothing acknowledged is lost, nothing is there twice, and the
 * round that goes on each time is charged once.
 */

const CLIENTS = 4;
const BATCH = 20;
const USERS = 240;

/** Posts a client's batches in order until the daemon is gone; returns the ids it was told are stored. */
async function post(daemon: TestDaemon, batches: readonly unknown[][]): Promise<string[]> {
  const stored: string[] = [];
  for (const batch of batches) {
    try {
      const report = (await daemon.post('/v1/documents', batch)) as { accepted: number; duplicates: number };
      assert.equal(report.accepted, batch.length);
      stored.push(...batch.map(event => (event as { id: string }).id));
    } catch (error) {
      if (error instanceof assert.AssertionError) throw error;
      return stored; // the connection broke: this batch may be stored or not
    }
  }
  return stored;
}

const counts = async (db: Database): Promise<Map<string, number>> => {
  const { rows } = await db.query<{ id: string; n: number }>(
    `select e.event_id as id, count(d.id) as n from events e left join documents d on d.event = e.id group by e.id`,
  );
  assert.equal(new Set(rows.map(row => row.id)).size, rows.length, 'no event twice');
  return new Map(rows.map(row => [row.id, row.n]));
};

test('kill -9 of the daemon: in ingest, in training, in evaluation, in promotion, after it', {
  timeout: 600_000,
}, async t => {
  const folder = testFolder(t, 'kill');
  const start = (rule: string): Promise<TestDaemon> =>
    startTestDaemon(t, { data: folder, settings: QUICK_SETTINGS, policies: quickPolicies(rule) });
  const rule = `champion.version == 1 && documents.new >= 150`;
  let daemon = await start('false');

  await t.test('in ingest: what was acknowledged is there once, and sending all of it again adds up', async () => {
    const events = documentEvents(documents('mail', USERS, 1), 'inbox', i => `writer-${i}`);
    const batches = Array.from({ length: CLIENTS }, (_, client) => {
      const own = events.filter((_, i) => i % CLIENTS === client);
      return Array.from({ length: Math.ceil(own.length / BATCH) }, (_, i) => own.slice(i * BATCH, (i + 1) * BATCH));
    });
    let answered = 0;
    const posting = batches.map(async own => {
      const stored: string[] = [];
      for (const batch of own) {
        stored.push(...(await post(daemon, [batch])));
        answered++;
      }
      return stored;
    });
    await eventually('half of the batches are answered', async () => (answered >= 6 ? true : undefined), 60_000, 1);
    await killDaemon(daemon);
    const acknowledged = (await Promise.all(posting)).flat();
    assert.ok(acknowledged.length > 0 && acknowledged.length < events.length, `${acknowledged.length} acknowledged`);

    daemon = await start('false');
    const before = await withDatabase(daemon.data, counts);
    for (const id of acknowledged) assert.equal(before.get(id), 1, `${id} was acknowledged`);
    let accepted = 0;
    let duplicates = 0;
    for (const batch of batches.flat()) {
      const report = (await daemon.post('/v1/documents', batch)) as { accepted: number; duplicates: number };
      accepted += report.accepted;
      duplicates += report.duplicates;
    }
    assert.equal(duplicates, before.size);
    assert.equal(accepted + duplicates, events.length);
    const after = await withDatabase(daemon.data, counts);
    assert.equal(after.size, events.length);
    assert.deepEqual(
      [...after].filter(([, n]) => n !== 1),
      [],
    );
    t.diagnostic(`${acknowledged.length} of ${events.length} acknowledged, ${before.size} stored at the kill`);
    assert.equal(await daemon.stop(), 0);
  });

  const noisedStep = (): Promise<RoundState> =>
    withDatabase(daemon.data, db =>
      roundIs(db, 'a noised step', ({ state, progress }) => state === 'reserved' && (progress?.done ?? 0) >= 1),
    );

  await t.test('in training: a stop that is asked for is no failed try, a kill is one', async () => {
    daemon = await start(rule);
    await noisedStep();
    assert.equal(await daemon.stop(), 0);
    daemon = await start(rule);
    const { id, attempts } = await noisedStep();
    assert.equal(attempts, 1);
    await killDaemon(daemon);
    daemon = await start(rule);
    await withDatabase(daemon.data, async db => {
      const round = (await newestRound(db))!;
      assert.equal(round.id, id, 'the same round goes on');
      assert.ok(round.state !== 'reserved' || round.attempts <= 2, `${round.attempts} tries`);
      await assertSound(db);
    });
  });

  await t.test('between training and publishing', async () => {
    const settled = await withDatabase(daemon.data, async db => {
      await roundIs(db, 'the round evaluates', ({ state }) => state === 'compressed');
      return (await db.query<{ hash: string }>(`select hash from ledger where entry = 'settle'`)).rows;
    });
    assert.equal(settled.length, 1);
    await killDaemon(daemon);
    daemon = await start(rule);
    await withDatabase(daemon.data, async db => {
      await assertSound(db);
      assert.deepEqual((await db.query(`select hash from ledger where entry = 'settle'`)).rows, settled);
    });
  });

  await t.test('in the transaction that promotes', async () => {
    await withDatabase(daemon.data, async db => {
      const held = await db.session();
      await held.query('begin; lock table aliases in exclusive mode');
      await eventually(
        'the promotion waits for the lock',
        async () => {
          const { rows } = await db.query<{ n: number }>(
            `select count(*) as n from pg_locks where relation = 'aliases'::regclass and not granted`,
          );
          return rows[0]!.n > 0 ? true : undefined;
        },
        240_000,
        15,
      );
      await killDaemon(daemon);
      await held.end().catch(() => undefined); // its server is gone
    });
  });

  await t.test('right after the promotion', async () => {
    daemon = await start(rule);
    await withDatabase(daemon.data, db =>
      eventually(
        'the alias moves',
        async () => {
          const { rows } = await db.query<{ version: number }>('select version from aliases');
          return rows[0]!.version === 2 ? true : undefined;
        },
        120_000,
        5,
      ),
    );
    await killDaemon(daemon);
    const begun = Date.now();
    daemon = await start(rule);
    t.diagnostic(`ready again after ${Date.now() - begun} ms`);
    const answer = (await daemon.post('/v1/responses', { input: 'my parcel', max_output_tokens: 4 })) as {
      model: string;
    };
    assert.equal(answer.model, 'learnd@2');
    await withDatabase(daemon.data, async db => {
      await assertSound(db);
      const round = (await newestRound(db))!;
      assert.deepEqual([round.id, round.state], [1, 'published']);
      const versions = await db.query<{ n: number }>('select n from versions order by n');
      assert.deepEqual(
        versions.rows.map(row => row.n),
        [1, 2],
      );
      const told = await db.query<{ type: string; n: number }>(
        `select type, count(*) as n from outbox where type in ('learnd.round.started', 'learnd.round.finished')
           or (type = 'learnd.version.promoted' and data->>'version' = 'learnd@2') group by type order by type`,
      );
      assert.deepEqual(
        told.rows.map(row => [row.type, row.n]),
        [
          ['learnd.round.finished', 1],
          ['learnd.round.started', 1],
          ['learnd.version.promoted', 1],
        ],
        'everything is announced once',
      );
    });
    assert.equal(await daemon.stop(), 0);
  });
});
