import assert from 'node:assert/strict';
import test from 'node:test';
import { sleep } from '../../src/base/clock.ts';
import { eventually, startTestDaemon, type TestDaemon, testFolder } from '../support/daemon.ts';
import { documentEvents, documents } from '../support/documents.ts';
import {
  assertSound,
  children,
  newestRound,
  QUICK_SETTINGS,
  quickPolicies,
  type RoundState,
  roundIs,
  withDatabase,
} from '../support/faults.ts';
import { type Streamed, streamForever } from '../support/streaming.ts';

/**
 * kill -9 of each child while it is needed: the engine in the middle of answers, the trainer in a noised step, PostgreSQL under ingest,
 * training and answers. The daemon stays, nothing acknowledged is lost, and each round is charged once.
 */

const ROUND = { actions: [{ finetune: { data: 'documents', method: 'norms', epsilon: 2, max_minutes: 2 } }] };

const begin = async (daemon: TestDaemon): Promise<number> =>
  ((await daemon.post('/v1/admin/rounds', ROUND)) as { round: number }).round;

const inTraining = ({ state, progress }: RoundState): boolean => state === 'reserved' && (progress?.done ?? 0) >= 1;

/** Ends the newest worker: the round's. */
function killTrainer(daemon: TestDaemon): number {
  const { pid } = children(daemon, 'worker').at(-1)!;
  process.kill(pid, 'SIGKILL');
  return pid;
}

test('kill -9 of the engine, of the trainer, of PostgreSQL', { timeout: 600_000 }, async t => {
  const daemon = await startTestDaemon(t, {
    data: testFolder(t, 'kill-children'),
    settings: QUICK_SETTINGS,
    policies: quickPolicies(),
  });
  const champion = async (): Promise<string> =>
    ((await daemon.get('/v1/admin/status')) as { champion: string }).champion;
  await daemon.post(
    '/v1/documents',
    documentEvents(documents('mail', 240, 1), 'inbox', i => `writer-${i}`),
  );
  await eventually(
    'all documents are scored',
    () =>
      withDatabase(daemon.data, async db => {
        const { rows } = await db.query<{ n: number }>('select count(*) as n from documents where scored_at is null');
        return rows[0]!.n === 0 ? true : undefined;
      }),
    120_000,
  );

  await t.test('the engine in the middle of answers: they fail by name, the next ones come', async () => {
    const streamed: Streamed[] = [];
    const stop = new AbortController();
    t.after(() => stop.abort());
    const streaming = [1, 2].map(() =>
      streamForever(daemon, streamed, stop.signal, { input: 'my parcel', maxTokens: 400, probe: null }),
    );
    await eventually('answers come', async () => (streamed.length >= 2 ? true : undefined), 60_000, 20);
    const before = children(daemon, 'engine')[0]!;
    process.kill(before.pid, 'SIGKILL');
    await eventually(
      'another engine is there',
      async () => (children(daemon, 'engine').some(({ pid }) => pid !== before.pid) ? true : undefined),
      60_000,
      20,
    );
    const at = streamed.length;
    await eventually(
      'answers come again',
      async () => (streamed.slice(at).filter(answer => answer.error === undefined).length >= 2 ? true : undefined),
      60_000,
      20,
    );
    stop.abort();
    await Promise.all(streaming);
    const failed = streamed.filter(answer => answer.error !== undefined);
    assert.ok(failed.length <= 2, JSON.stringify(failed));
    for (const { error } of failed) assert.match(error!, /engine ended while answering/);
    assert.ok(streamed.every(({ version, error }) => version === 'learnd@1' || error !== undefined));
    assert.equal(children(daemon, 'engine').length, 1);
  });

  await t.test('the trainer, once: the round tries again and is charged once', async () => {
    const id = await begin(daemon);
    await withDatabase(daemon.data, async db => {
      await roundIs(db, 'a noised step', round => round.id === id && inTraining(round));
      const killed = killTrainer(daemon);
      await roundIs(db, 'the round is published', ({ state }) => state === 'published');
      assert.ok(!children(daemon, 'worker').some(({ pid }) => pid === killed));
      await assertSound(db);
    });
    assert.match(daemon.log(), /train failed, trying again/);
    assert.equal(await champion(), 'learnd@2');
  });

  await t.test('PostgreSQL in training, under ingest and answers: all go on', async () => {
    const streamed: Streamed[] = [];
    const stop = new AbortController();
    t.after(() => stop.abort());
    const streaming = streamForever(daemon, streamed, stop.signal, {
      input: 'my parcel',
      maxTokens: 8,
      probe: null,
      pauseMs: 50,
    });
    const acknowledged: string[] = [];
    let refused = 0;
    const sending = (async () => {
      for (let i = 0; !stop.signal.aborted; i++) {
        const [event] = documentEvents([`note ${i} about the parcel and the shop`], `more-${i}`, () => `sender-${i}`);
        try {
          await daemon.post('/v1/documents', event);
          acknowledged.push((event as { id: string }).id);
        } catch (error) {
          refused++;
          // A refusal is a clear 503, never a broken connection or an internal error.
          assert.match(String(error), /^Error: 503 .*PostgreSQL/);
        }
        await sleep(25);
      }
    })();
    const id = await begin(daemon);
    await withDatabase(daemon.data, db => roundIs(db, 'a noised step', r => r.id === id && inTraining(r)));
    const before = children(daemon, 'postgres')[0]!;
    process.kill(before.pid, 'SIGKILL');
    await eventually(
      'PostgreSQL is back',
      async () => {
        const now = children(daemon, 'postgres')[0];
        if (now === undefined || now.pid === before.pid) return undefined;
        return withDatabase(daemon.data, async db => (await newestRound(db))?.id);
      },
      60_000,
    );
    await withDatabase(daemon.data, async db => {
      await roundIs(db, 'the round is published', ({ state }) => state === 'published');
      stop.abort();
      await Promise.all([streaming, sending]);
      await assertSound(db);
      const { rows } = await db.query<{ n: number }>(
        'select count(*) as n from events join documents on documents.event = events.id where event_id = any($1)',
        [acknowledged],
      );
      assert.equal(rows[0]!.n, acknowledged.length, 'every acknowledged event is stored once');
      await eventually(
        'answers are stored',
        async () => {
          const answers = await db.query<{ n: number }>('select count(*) as n from exchanges');
          return answers.rows[0]!.n >= streamed.length ? true : undefined;
        },
        20_000,
      );
    });
    assert.deepEqual(
      streamed.filter(answer => answer.error !== undefined),
      [],
      'answers go on without the database',
    );
    assert.equal(await champion(), 'learnd@3');
    t.diagnostic(
      `${acknowledged.length} events stored, ${refused} refused while PostgreSQL was away, ${streamed.length} answers`,
    );
  });

  await t.test('the trainer, every time: the round fails, charged in full and once; the champion stays', async () => {
    const id = await begin(daemon);
    await withDatabase(daemon.data, async db => {
      const killed = new Set<number>();
      for (let n = 0; n < 3; n++) {
        await eventually(
          'another trainer is in a noised step',
          async () => {
            const round = (await newestRound(db))!;
            const pid = children(daemon, 'worker').at(-1)?.pid;
            return inTraining(round) && pid !== undefined && !killed.has(pid) && round.progress!.done < 8
              ? true
              : undefined;
          },
          120_000,
          15,
        );
        killed.add(killTrainer(daemon));
        await db.query('update rounds set progress = null where id = $1', [id]);
      }
      const round = await roundIs(db, 'the round fails', ({ state }) => state === 'failed');
      assert.match(round.error!, /compute worker ended/);
      await assertSound(db);
      const { rows } = await db.query<{ entry: string; mechanism: unknown; note: string }>(
        `select entry, mechanism, note from ledger where round = $1 and entry <> 'declare' order by id`,
        [id],
      );
      assert.deepEqual(
        rows.map(row => row.entry),
        ['reserve', 'settle'],
      );
      assert.deepEqual(rows[1]!.mechanism, rows[0]!.mechanism, 'charged in full');
      const kept = await db.query<{ n: number }>(`select count(*) as n from rounds where work::text like '%"seed"%'`);
      assert.equal(kept.rows[0]!.n, 0, 'no seed is kept');
    });
    assert.equal(await champion(), 'learnd@3');
  });
  assert.equal(await daemon.stop(), 0);
});
