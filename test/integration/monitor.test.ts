import assert from 'node:assert/strict';
import test from 'node:test';
import { ManualClock } from '../../src/base/clock.ts';
import { LearndError } from '../../src/base/errors.ts';
import { loadSettings } from '../../src/base/settings.ts';
import { signalNames } from '../../src/events/signals.ts';
import type { VersionFiles } from '../../src/learn/model/version.ts';
import { epsilon } from '../../src/learn/privacy/accountant.ts';
import type { Scorer } from '../../src/learn/worker/types.ts';
import { ServingStats } from '../../src/loop/monitor/serving.ts';
import { budgetReader, collectSignals } from '../../src/loop/monitor/signals.ts';
import { monitorTurn, seedMonitor } from '../../src/loop/monitor/turn.ts';
import { listAlarms, openAlarms } from '../../src/store/alarms.ts';
import type { Database } from '../../src/store/database.ts';
import { reserve, settle } from '../../src/store/ledger.ts';
import { eventsAfter } from '../../src/store/outbox.ts';
import { insertRound } from '../../src/store/rounds.ts';
import { counts } from '../../src/store/signals.ts';
import { testDatabase, testLog } from '../support/database.ts';

const settings = loadSettings({
  env: {},
  cwd: '/',
  overrides: {
    tasks: [{ name: 'intent', labels: ['old', 'new'] }],
    'monitor.sample': 64,
    'monitor.window': 200,
    'monitor.minimum': 50,
  },
});
const files = { version: 'learnd@1', sha256: '', model: '/m.gguf', heads: {} } as VersionFiles;

/** Says "old" to everything; loses 3 nats a token, 4 on text with "hard" in it. */
const scorer: Scorer = {
  classify: async (_files, _task, _labels, texts) => texts.map(() => ({ label: 'old', scores: { old: 1, new: 0 } })),
  perplexity: async (_files, texts) =>
    texts.map(text => ({ nll: (text.includes('hard') ? 4 : 3) * 10, tokens: 10, bytes: text.length, first: 1 })),
};

let events = 0;
async function event(db: Database, kind: string): Promise<number> {
  const { rows } = await db.query<{ id: number }>(
    `insert into events (source, event_id, type, kind, origin) values ('t', $1, 't', $2, 'http') returning id`,
    [String(++events), kind],
  );
  return rows[0]!.id;
}
async function addLabels(
  db: Database,
  n: number,
  label: string,
  more: { split?: string; excluded?: string; task?: string } = {},
): Promise<void> {
  for (let i = 0; i < n; i++)
    await db.query(
      `insert into feedback (event, kind, unit, task, text, label, split, excluded) values ($1, 'label', $2, $3, 'text', $4, $5, $6)`,
      [
        await event(db, 'feedback'),
        `u:${events}`,
        more.task ?? 'intent',
        label,
        more.split ?? 'train',
        more.excluded ?? null,
      ],
    );
}
async function addDocuments(db: Database, n: number, text: string, split = 'train'): Promise<void> {
  for (let i = 0; i < n; i++)
    await db.query(
      `insert into documents (event, unit, source, text, content_hash, split) values ($1, $2, 'newsroom', $3, '\\x00', $4)`,
      [await event(db, 'document'), `e:${events}`, text, split],
    );
}
const turn = (db: Database, n = 1, by: Scorer = scorer) =>
  monitorTurn({ db, scorer: by, settings, champion: { n, files }, log: testLog });
async function version(db: Database, n: number): Promise<void> {
  await db.query(
    `insert into versions (n, name, sha256, manifest) values ($1, 'learnd', '', '{}') on conflict do nothing`,
    [n],
  );
}

test('F1 falls: the alarm is raised once, latched, announced, and cleared by a promotion', async t => {
  const db = await testDatabase(t);
  await version(db, 1);
  await version(db, 2);
  // Nine of ten are "old", which is what the champion always says.
  for (let i = 0; i < 4; i++) {
    await addLabels(db, 54, 'old');
    await addLabels(db, 6, 'new');
    const { scored, sampledOut, changes } = await turn(db);
    assert.deepEqual([scored.feedback, sampledOut.feedback, changes.length], [60, 0, 0]);
  }
  const before = (await turn(db)).figures.f1;
  assert.ok(before.value! > 0.8 && before.alarm === false && before.rows === 240);

  const changes: string[] = [];
  for (let i = 0; i < 4; i++) {
    await addLabels(db, 60, 'new');
    const { changes: now } = await turn(db);
    changes.push(...now.map(c => `${c.signal} ${c.change}`));
  }
  assert.deepEqual(changes, ['f1 raised']);
  const [alarm] = await openAlarms(db);
  assert.equal(alarm!.signal, 'f1');
  assert.equal(alarm!.version, 1);
  assert.equal(alarm!.detector, 'adwin');
  assert.ok(alarm!.value! < alarm!.reference!);
  const { rows } = await db.query<{ n: number }>(
    `select count(*) as n from feedback where scored_version = 1 and predicted = 'old'`,
  );
  assert.equal(rows[0]!.n, 480);

  // Another version goes live, seeded with its own held-out results.
  await seedMonitor(db, 2, {
    errors: new Array(60).fill(0).map((_, i) => (i % 6 === 0 ? 1 : 0)),
    f1: 0.83,
    documents: [],
  });
  const promoted = await turn(db, 2);
  assert.deepEqual(promoted.changes, [{ signal: 'f1', change: 'cleared' }]);
  assert.deepEqual(
    [promoted.figures.version, promoted.figures.f1.alarm, promoted.figures.f1.value, promoted.figures.f1.reference],
    [2, false, null, 0.83],
  );
  assert.deepEqual((await turn(db, 2)).changes, []);
  const [closed] = await listAlarms(db);
  assert.equal(closed!.cleared_why, 'promoted');
  assert.deepEqual(
    (await eventsAfter(db, 0)).map(e => [e.type, (e.data as { version: string }).version]),
    [
      ['learnd.alarm.raised', 'learnd@1'],
      ['learnd.alarm.cleared', 'learnd@1'],
    ],
  );
});

test('new documents raise perplexity', async t => {
  const db = await testDatabase(t);
  await addDocuments(db, 60, 'plain');
  const { figures } = await turn(db);
  assert.ok(Math.abs(figures.perplexity.value! - Math.exp(3)) < 1e-9);
  assert.ok(Math.abs(figures.perplexity.reference! - Math.exp(3)) < 1e-9);
  const changes: unknown[] = [];
  for (let i = 0; i < 3; i++) {
    await addDocuments(db, 60, 'hard');
    changes.push(...(await turn(db)).changes);
  }
  assert.deepEqual(changes, [{ signal: 'perplexity', change: 'raised' }]);
  const { rows } = await db.query(
    `select nll, tokens, bytes from documents where text = 'hard' and scored_at is not null limit 1`,
  );
  assert.deepEqual(rows, [{ nll: 40, tokens: 10, bytes: 4 }]);
});

test('more than a turn scores: a sample is scored, the rest is passed over and may be learned', async t => {
  const db = await testDatabase(t);
  await addLabels(db, 100, 'old');
  await addLabels(db, 3, 'old', { excluded: 'duplicate' });
  await addLabels(db, 2, 'gone', { task: 'undeclared since' });
  await addDocuments(db, 70, 'x');
  const { scored, sampledOut } = await turn(db);
  assert.ok(scored.feedback >= 62 && scored.feedback <= 64);
  assert.equal(scored.feedback + sampledOut.feedback, 102);
  assert.deepEqual([scored.documents, sampledOut.documents], [64, 6]);
  const { rows } = await db.query<{ waiting: number; scored: number; out: number }>(
    `select count(*) filter (where scored_at is null) as waiting, count(predicted) as scored,
       count(*) filter (where scored_at is not null and predicted is null) as out from feedback`,
  );
  assert.deepEqual(rows, [{ waiting: 3, scored: scored.feedback, out: sampledOut.feedback }]);
  // Long documents: fewer of them, and only their beginning is looked at.
  await addDocuments(db, 40, 'y'.repeat(10_000));
  const lengths: number[] = [];
  const long = await turn(db, 1, {
    ...scorer,
    perplexity: async (f, texts) => {
      lengths.push(...texts.map(text => text.length));
      return scorer.perplexity(f, texts);
    },
  });
  assert.deepEqual([long.scored.documents, long.sampledOut.documents], [32, 8]);
  assert.ok(lengths.every(length => length === 2048));
});

test('a slow scorer does not keep rows from being learned', async t => {
  const db = await testDatabase(t);
  await addLabels(db, 60, 'old');
  const slow: Scorer = {
    ...scorer,
    classify: async (...args) => {
      await new Promise(resolve => setTimeout(resolve, 60));
      return scorer.classify(...args);
    },
  };
  const { scored, sampledOut } = await monitorTurn({
    db,
    scorer: slow,
    settings,
    champion: { n: 1, files },
    log: testLog,
    mostMs: 50,
  });
  assert.deepEqual([scored.feedback, sampledOut.feedback], [16, 44]);
});

test('a row erased while it is scored counts nowhere; one that cannot be scored is passed over; a dead scorer loses nothing', async t => {
  const db = await testDatabase(t);
  await addLabels(db, 10, 'old');
  const { rows: ids } = await db.query<{ id: number }>('select id from feedback order by id');
  const erasing = await turn(db, 1, {
    ...scorer,
    classify: async (...args) => {
      await db.query('delete from feedback where id = $1', [ids[0]!.id]);
      return scorer.classify(...args);
    },
  });
  assert.equal(erasing.scored.feedback, 9);
  assert.equal(erasing.figures.f1.rows, 9);

  await addDocuments(db, 4, 'fine');
  await addDocuments(db, 1, 'poison');
  const choosy: Scorer = {
    ...scorer,
    perplexity: async (f, texts) => {
      if (texts.some(text => text === 'poison')) throw new LearndError('internal', 'cannot read it');
      return scorer.perplexity(f, texts);
    },
  };
  assert.deepEqual((await turn(db, 1, choosy)).scored.documents, 4);
  const { rows: passed } = await db.query(
    `select nll, scored_at is not null as seen from documents where text = 'poison'`,
  );
  assert.deepEqual(passed, [{ nll: null, seen: true }]);

  await addDocuments(db, 3, 'later');
  const dead: Scorer = {
    ...scorer,
    perplexity: () => Promise.reject(new LearndError('dependency', 'the worker is gone')),
  };
  await assert.rejects(turn(db, 1, dead), /the worker is gone/);
  assert.equal((await turn(db)).scored.documents, 3);
});

test('what counts as new: trainable, scored, and since the last frozen view of its kind', async t => {
  const db = await testDatabase(t);
  await version(db, 1);
  await addLabels(db, 20, 'old');
  await addLabels(db, 5, 'old', { split: 'holdout' });
  await addLabels(db, 2, 'old', { excluded: 'duplicate' });
  await addDocuments(db, 7, 'x');
  assert.deepEqual(await counts(db), { feedbackNew: 0, documentsNew: 0, feedbackTotal: 27, documentsTotal: 7 });
  await turn(db);
  assert.deepEqual(await counts(db), { feedbackNew: 20, documentsNew: 7, feedbackTotal: 27, documentsTotal: 7 });

  // A round that only measures freezes held-out rows: that is no training view.
  const open = () =>
    insertRound(db, {
      decision: undefined,
      policy: undefined,
      rule: undefined,
      actions: [],
      reason: 'x',
      parent: 1,
      fence: 1,
    });
  const freeze = (round: number, where: string) =>
    db.query(`insert into round_rows (round, kind, row_id) select $1, 'feedback', id from feedback where ${where}`, [
      round,
    ]);
  const finish = () => db.query(`update rounds set state = 'rejected', finished_at = now()`);
  const measuring = await open();
  await freeze(measuring.id, `split = 'holdout'`);
  assert.equal((await counts(db)).feedbackNew, 20);
  await finish();
  // A training view takes at most so many of a user: what it leaves is not new any more.
  const training = await open();
  await freeze(training.id, `split = 'train' and excluded is null and id % 2 = 0`);
  assert.deepEqual([(await counts(db)).feedbackNew, (await counts(db)).documentsNew], [0, 7]);
  await finish();
  await addLabels(db, 4, 'new');
  assert.equal((await counts(db)).feedbackNew, 0);
  await turn(db);
  assert.equal((await counts(db)).feedbackNew, 4);
});

test('signals: every one of the table, known or null', async t => {
  const db = await testDatabase(t);
  const clock = new ManualClock(Date.now() + 2 * 3_600_000);
  const budget = budgetReader(epsilon, clock);
  const limit = { epsilon: 8, delta: 1e-6, windowMs: null };
  const serving = new ServingStats();
  const collect = async (champion: Parameters<typeof collectSignals>[0]['champion']) =>
    collectSignals({ db, settings, serving, champion, budget: await budget(db, limit), clock });

  const empty = await collect(undefined);
  assert.deepEqual(Object.keys(empty), [...signalNames]);
  assert.deepEqual(
    Object.entries(empty).filter(([name, value]) => value !== null && !name.startsWith('time.')),
    [
      ['feedback.new', 0],
      ['feedback.total', 0],
      ['documents.new', 0],
      ['documents.total', 0],
      ['budget.epsilon_spent', 0],
      ['budget.epsilon_left', 8],
      ['round.running', false],
      ['rounds.failed', 0],
    ],
  );

  await version(db, 1);
  await db.query(`insert into aliases (alias, version) values ('champion', 1)`);
  await addLabels(db, 60, 'old');
  await turn(db);
  serving.record({ latencyMs: 40, firstTokenMs: 4 });
  const mechanism = { noise_multiplier: 1, sample_rate: 0.5, steps: 10 };
  const round = await insertRound(db, {
    decision: undefined,
    policy: undefined,
    rule: undefined,
    actions: [],
    reason: 'x',
    parent: 1,
    fence: 1,
  });
  await db.tx(tx =>
    reserve(tx, { round: round.id, mechanisms: [mechanism, mechanism], delta: 1e-6, limit: 100, compose: epsilon }),
  );
  const reserved = await budget(db, limit);
  assert.equal(reserved.spent, epsilon([mechanism, mechanism], 1e-6));
  assert.equal(reserved.left, 0);
  await db.tx(tx => settle(tx, { round: round.id, mechanisms: [], delta: 1e-6, compose: epsilon }));

  const card = {
    perplexity: 30,
    perplexity_standard_error: 1,
    f1: 0.7,
    parameters: 1000,
    size_mb: 98,
    tokens_per_second: 55,
  };
  const known = await collect({ n: 1, card });
  assert.equal(known['feedback.new'], 60);
  assert.equal(known['f1.value'], 1);
  assert.equal(known['f1.alarm'], false);
  assert.equal(known['perplexity.value'], null);
  assert.equal(known['latency.p95_ms'], 40);
  assert.equal(known['errors.rate'], 0);
  assert.equal(known['budget.epsilon_left'], 8);
  assert.equal(known['champion.size_mb'], 98);
  assert.equal(known['round.running'], true);
  assert.ok(Math.abs((known['champion.age_hours'] as number) - 2) < 0.1);
  // The figures are of version 1; about another champion they say nothing.
  const other = await collect({ n: 2, card: null });
  assert.deepEqual([other['f1.value'], other['f1.alarm'], other['champion.f1']], [null, null, null]);
});
