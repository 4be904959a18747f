import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { createLog } from '../../src/base/log.ts';
import { type Signals, type SignalValue, signalNames } from '../../src/events/signals.ts';
import { sendNotification } from '../../src/loop/policy/notify.ts';
import { parsePolicy } from '../../src/loop/policy/parse.ts';
import { policyTurn } from '../../src/loop/policy/turn.ts';
import { type ActivePolicy, type PolicyWatch, putPolicy, watchPolicy } from '../../src/loop/policy/watch.ts';
import { listDecisions } from '../../src/store/decisions.ts';
import { eventsAfter } from '../../src/store/outbox.ts';
import { listPolicies, storePolicy } from '../../src/store/policies.ts';
import { insertRound } from '../../src/store/rounds.ts';
import { testDatabase } from '../support/database.ts';

const settings = { tasks: [{ name: 'intent', labels: ['a', 'b'] }], sources: [] };
const rules = (name: string, when = 'f1.alarm') => `rules:\n  - { name: ${name}, when: "${when}", do: [evaluate] }\n`;

async function until(what: () => boolean, ms = 30_000): Promise<void> {
  for (const end = Date.now() + ms; !what(); await new Promise(resolve => setTimeout(resolve, 10)))
    if (Date.now() > end) throw new Error('it did not happen in time');
}

/** Hooks run in the order they were made: what uses the database must be stopped before it is dropped. */
function beforeDatabase(t: TestContext): { watch?: PolicyWatch } {
  const held: { watch?: PolicyWatch } = {};
  t.after(() => held.watch?.stop());
  return held;
}

async function folder(t: TestContext) {
  const path = mkdtempSync(join(tmpdir(), 'learnd-policy-'));
  t.after(() => rmSync(path, { recursive: true, force: true }));
  const lines: string[] = [];
  return {
    file: join(path, 'policies.yaml'),
    lines,
    log: createLog({ where: 'test', write: line => lines.push(line) }),
  };
}

test('an edit takes effect, a bad one leaves the last good one in force and says where it is wrong', async t => {
  const held = beforeDatabase(t);
  const db = await testDatabase(t);
  const { file, lines, log } = await folder(t);
  const watched = await watchPolicy({ file, db, settings, log, everyMs: 50 });
  held.watch = watched;
  // No file: what ships with learnd.
  assert.equal(watched.current().source, 'default');
  assert.ok(watched.current().policy.rules.some(rule => rule.name === 'refresh-on-drift'));

  writeFileSync(file, rules('first'));
  await until(() => watched.current().policy.rules[0]?.name === 'first');
  assert.equal(watched.current().source, 'file');
  const good = watched.current().id;

  writeFileSync(file, rules('second', 'f1.alrm'));
  await until(() => watched.problem() !== undefined);
  assert.equal(watched.current().id, good);
  assert.equal(watched.current().policy.rules[0]!.name, 'first');
  assert.ok(
    lines.some(line => line.includes(`${file}:2:28: unknown signal f1.alrm; did you mean f1.alarm?`)),
    lines.join('\n'),
  );
  // Said once, not at every look.
  await new Promise(resolve => setTimeout(resolve, 200));
  assert.equal(lines.filter(line => line.includes('unknown signal')).length, 1);

  writeFileSync(file, rules('third'));
  await until(() => watched.current().policy.rules[0]?.name === 'third');
  assert.equal(watched.problem(), undefined);
  // Back to the first text, and the file gone: versions are kept, nothing is lost.
  writeFileSync(file, rules('first'));
  await until(() => watched.current().policy.rules[0]?.name === 'first');
  rmSync(file);
  await watched.refresh();
  assert.equal(watched.current().policy.rules[0]!.name, 'first');
  assert.deepEqual(
    (await listPolicies(db)).map(row => [row.source, parsePolicy(row.text, { file: 'p' }).rules[0]!.name]),
    [
      ['file', 'first'],
      ['file', 'third'],
      ['file', 'first'],
      ['default', 'refresh-on-drift'],
    ],
  );
});

test('over HTTP: stored, in force, written to the file; the file edited later wins; a restart keeps the last change', async t => {
  const held = beforeDatabase(t);
  const db = await testDatabase(t);
  const { file, log } = await folder(t);
  writeFileSync(file, rules('file-1'));
  let watched = await watchPolicy({ file, db, settings, log, everyMs: 10_000 });
  held.watch = watched;

  await assert.rejects(putPolicy(rules('x', 'f1.alrm'), { db, settings, file, log }), /policy:2:23: unknown signal/);
  assert.equal(readFileSync(file, 'utf8'), rules('file-1'));

  const put = await putPolicy(rules('http-1'), { db, settings, file, log });
  assert.equal(put.file, file);
  assert.equal(readFileSync(file, 'utf8'), rules('http-1'));
  await watched.refresh();
  assert.equal(watched.current().policy.rules[0]!.name, 'http-1');
  assert.equal((await listPolicies(db)).length, 2);

  // From a node whose file cannot be written: the store alone has it, and it stays in force over a restart.
  const elsewhere = await putPolicy(rules('http-2'), { db, settings, file: join(file, 'is-no-folder.yaml'), log });
  assert.equal(elsewhere.file, undefined);
  await watched.stop();
  watched = await watchPolicy({ file, db, settings, log, everyMs: 10_000 });
  held.watch = watched;
  assert.equal(watched.current().policy.rules[0]!.name, 'http-2');

  // The file edited while the daemon was down.
  await watched.stop();
  writeFileSync(file, rules('file-2'));
  watched = await watchPolicy({ file, db, settings, log, everyMs: 10_000 });
  held.watch = watched;
  assert.equal(watched.current().policy.rules[0]!.name, 'file-2');
});

test('a broken file at the start: the last good policy of the store', async t => {
  const held = beforeDatabase(t);
  const db = await testDatabase(t);
  const { file, log } = await folder(t);
  const good = parsePolicy(rules('good'), { file: 'p' });
  await db.tx(tx => storePolicy(tx, { ...good, source: 'file' }));
  writeFileSync(file, 'rules: [');
  const watched = await watchPolicy({ file, db, settings, log, everyMs: 10_000 });
  held.watch = watched;
  assert.equal(watched.current().policy.rules[0]!.name, 'good');
  assert.equal(watched.problem()!.findings[0]!.line, 1);
});

const signals = (given: Record<string, SignalValue>): Signals =>
  Object.fromEntries(signalNames.map(name => [name, given[name] ?? null])) as Signals;

async function active(db: Awaited<ReturnType<typeof testDatabase>>, text: string): Promise<ActivePolicy> {
  const policy = parsePolicy(text, { file: 'p', settings });
  const row = await db.tx(tx => storePolicy(tx, { ...policy, source: 'file' }));
  return { id: row.id, source: 'file', policy };
}

test('a turn writes the decision, its round and its event together, and the same "no" only once', async t => {
  const db = await testDatabase(t);
  const policy = await active(
    db,
    `rules:\n  - { name: r, when: f1.alarm, require: feedback.new >= 10, do: [evaluate], cooldown: 1h }\n`,
  );
  const start = Date.parse('2026-06-03T10:00:00Z');
  const begun: number[] = [];
  const turn = (given: Record<string, SignalValue>, now: number) =>
    policyTurn({
      db,
      active: policy,
      signals: signals(given),
      now,
      begin: async (tx, decision, actions) => {
        const round = await insertRound(tx, {
          decision: decision.id,
          policy: decision.policy ?? undefined,
          rule: decision.rule ?? undefined,
          actions,
          reason: decision.reason,
          parent: undefined,
          fence: 1,
        });
        begun.push(round.id);
        return round.id;
      },
    });

  assert.ok((await turn({ 'f1.alarm': false, 'feedback.new': 3 }, start)).row);
  assert.equal((await turn({ 'f1.alarm': false, 'feedback.new': 4 }, start + 2000)).row, undefined);
  assert.ok((await turn({ 'f1.alarm': true, 'feedback.new': 5 }, start + 4000)).row, 'what blocks has changed');
  assert.ok((await turn({ 'f1.alarm': true, 'feedback.new': 6 }, start + 3_700_000)).row, 'once an hour in any case');

  const fired = await turn({ 'f1.alarm': true, 'feedback.new': 12 }, start + 3_800_000);
  assert.equal(fired.decision.outcome, 'round');
  assert.equal(fired.row!.round, begun[0]);
  assert.equal(fired.row!.signals['feedback.new'], 12);
  assert.equal(fired.row!.signals['perplexity.value'], null);
  const [event] = await eventsAfter(db, 0);
  assert.deepEqual(
    [event!.type, event!.data],
    [
      'learnd.decision.made',
      { id: fired.row!.id, outcome: 'round', rule: 'r', reason: fired.row!.reason, round: begun[0] },
    ],
  );

  // While it runs, and in its cooldown, nothing.
  const running = await turn({ 'f1.alarm': true, 'feedback.new': 12 }, start + 3_802_000);
  assert.equal(running.decision.reason, `Round ${begun[0]} is running.`);
  await db.query(`update rounds set state = 'rejected', finished_at = now()`);
  const cooling = await turn({ 'f1.alarm': true, 'feedback.new': 12 }, start + 3_900_000);
  assert.ok(cooling.decision.rules[0]!.kinds.includes('cooldown'));
  assert.equal(
    (await turn({ 'f1.alarm': true, 'feedback.new': 12 }, start + 3_800_000 + 3_600_000)).decision.outcome,
    'round',
  );
  assert.equal(begun.length, 2);
  assert.deepEqual(
    (await listDecisions(db)).map(d => d.outcome),
    ['round', 'none', 'none', 'round', 'none', 'none', 'none'],
  );
});

test('a round that cannot be written leaves no decision and no cooldown behind', async t => {
  const db = await testDatabase(t);
  const policy = await active(db, rules('r', 'true'));
  await assert.rejects(
    policyTurn({
      db,
      active: policy,
      signals: signals({}),
      now: Date.now(),
      begin: () => Promise.reject(new Error('disk full')),
    }),
    /disk full/,
  );
  assert.deepEqual(await listDecisions(db), []);
});

test('a schedule fires once at its tick, waits while a round runs, and goes on after a restart', async t => {
  const db = await testDatabase(t);
  const policy = await active(
    db,
    `rules:\n  - { name: n, schedule: "30 3 * * *", timezone: Europe/Berlin, do: [evaluate], cooldown: 24h }\n`,
  );
  let rounds = 0;
  const turn = async (now: string) =>
    (
      await policyTurn({
        db,
        active: policy,
        signals: signals({}),
        now: Date.parse(now),
        begin: async tx => {
          rounds++;
          const round = await insertRound(tx, {
            decision: undefined,
            policy: undefined,
            rule: 'n',
            actions: [],
            reason: 'x',
            parent: undefined,
            fence: 1,
          });
          return round.id;
        },
      })
    ).decision.outcome;
  const finish = () => db.query(`update rounds set state = 'rejected', finished_at = now()`);

  assert.equal(await turn('2026-10-24T01:29:58Z'), 'none');
  assert.equal(await turn('2026-10-24T01:30:02Z'), 'round'); // 03:30, summer time
  await finish();
  assert.equal(await turn('2026-10-24T01:30:04Z'), 'none');
  // A day of 25 hours later; a cooldown of a day must not make it skip.
  assert.equal(await turn('2026-10-25T01:30:04Z'), 'none');
  assert.equal(await turn('2026-10-25T02:29:59Z'), 'none');
  await insertRound(db, {
    decision: undefined,
    policy: undefined,
    rule: undefined,
    actions: [],
    reason: 'by hand',
    parent: undefined,
    fence: 1,
  });
  assert.equal(await turn('2026-10-25T02:30:01Z'), 'none');
  await finish();
  assert.equal(await turn('2026-10-25T02:41:00Z'), 'round');
  await finish();
  // Down at the tick: made up for within the hour; the cooldown ends at 02:41.
  assert.equal(await turn('2026-10-26T02:40:00Z'), 'none');
  assert.equal(await turn('2026-10-26T02:41:01Z'), 'round');
  await finish();
  // Down for longer: left out.
  assert.equal(await turn('2026-10-28T03:31:00Z'), 'none');
  assert.equal(rounds, 3);
});

test('notify posts JSON and reports what went wrong', async t => {
  const got: Array<{ type: string | undefined; body: string }> = [];
  const server = createServer((request, response) => {
    let body = '';
    request
      .on('data', chunk => (body += chunk))
      .on('end', () => {
        got.push({ type: request.headers['content-type'], body });
        if (request.url === '/slow') return;
        response
          .writeHead(request.url === '/ok' ? 204 : request.url === '/moved' ? 302 : 500, { location: '/ok' })
          .end();
      });
  }).listen(0, '127.0.0.1');
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  await new Promise(resolve => server.once('listening', resolve));
  const base = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  await sendNotification(`${base}/ok`, { rule: 'r' });
  assert.deepEqual(got, [{ type: 'application/json', body: '{"rule":"r"}' }]);
  await assert.rejects(sendNotification(`${base}/bad`, {}), /answered 500/);
  await assert.rejects(sendNotification(`${base}/moved`, {}), /answered 302/);
  await assert.rejects(sendNotification(`${base}/slow`, {}, { timeoutMs: 50 }), /no answer in time/);
  await assert.rejects(sendNotification('http://127.0.0.1:1/', {}), /notify http:\/\/127\.0\.0\.1:1\//);
});
