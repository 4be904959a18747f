import assert from 'node:assert/strict';
import test, { type TestContext } from 'node:test';
import { LearndError } from '../../src/base/errors.ts';
import { silentLog } from '../../src/base/log.ts';
import { type MachineContext, type Outcome, runRound, type Step, type StepName } from '../../src/loop/round/machine.ts';
import { startRound } from '../../src/loop/round/start.ts';
import type { Queryable } from '../../src/store/database.ts';
import {
  failedInARow,
  getRound,
  listRounds,
  noteProgress,
  type RoundRow,
  runningRound,
} from '../../src/store/rounds.ts';
import { type TestDatabase, testDatabase } from '../support/database.ts';

/** As a process that was killed: nothing after it runs. */
class Killed extends Error {}

interface Fake {
  ctx: MachineContext;
  calls: string[];
  said: Array<[string, unknown]>;
}

async function announced(tx: Queryable, type: string, data: unknown): Promise<void> {
  await tx.query('insert into outbox (type, data) values ($1, $2)', [type, JSON.stringify(data)]);
}

const happy: Record<StepName, Outcome> = {
  plan: { to: 'reserved', work: { view: 3 } },
  train: { to: 'trained', epsilon: 0.5, work: { head: 'blob' } },
  compress: { to: 'compressed' },
  evaluate: { to: 'evaluated', work: { card: { f1: 0.9, perplexity: null } } },
  gate: { to: 'admitted', verdict: { admitted: true } },
  publish: { to: 'published' },
};

function fake(db: TestDatabase, change: Partial<Record<StepName, Step>> = {}, fence = 1): Fake {
  const calls: string[] = [];
  const said: Array<[string, unknown]> = [];
  const steps = Object.fromEntries(
    (Object.keys(happy) as StepName[]).map(name => [
      name,
      (async (round, signal) => {
        calls.push(name);
        return change[name] ? await change[name](round, signal) : happy[name];
      }) satisfies Step,
    ]),
  ) as Record<StepName, Step>;
  const ctx: MachineContext = {
    db,
    log: silentLog,
    fence,
    attempts: 3,
    name: 'm',
    steps,
    announce: async (tx, type, data) => {
      await announced(tx, type, data);
      said.push([type, data]);
    },
    settle: async (tx, round) => {
      await tx.query(
        `insert into facts (key, value) values ('settled', $1) on conflict (key) do update set value = $1`,
        [round.id],
      );
      return undefined;
    },
  };
  return { ctx, calls, said };
}

const begin = async (db: TestDatabase, ctx: MachineContext) => {
  await db.query(`insert into versions (n, name, sha256, manifest) values (1, 'm', 'x', '{}') on conflict do nothing`);
  return await db.tx(tx =>
    startRound(tx, { actions: [{ do: 'quantize', type: 'q8_0' }], reason: 'test', parent: 1, fence: ctx.fence }, ctx),
  );
};
const never = new AbortController().signal;
const order = ['plan', 'train', 'compress', 'evaluate', 'gate', 'publish'];

test('a round runs every step once; work is merged, nulls inside it survive, and it is announced', async t => {
  const db = await testDatabase(t);
  const { ctx, calls, said } = fake(db);
  const { id } = await begin(db, ctx);
  const round = await runRound(ctx, id, never);
  assert.deepEqual(calls, order);
  assert.equal(round.state, 'published');
  assert.equal(round.epsilon, 0.5);
  assert.equal(round.attempts, 0);
  assert.deepEqual(round.work, { view: 3, head: 'blob', card: { f1: 0.9, perplexity: null } });
  assert.deepEqual(
    said.map(([type]) => type),
    ['learnd.round.started', ...Array(5).fill('learnd.round.progressed'), 'learnd.round.finished'],
  );
  assert.equal(await runningRound(db), undefined);
  assert.deepEqual((await runRound(ctx, id, never)).state, 'published');
  assert.deepEqual(calls, order);
});

test('a second start while a round runs is refused, and allowed once it has finished', async t => {
  const db = await testDatabase(t);
  const { ctx } = fake(db);
  const { id } = await begin(db, ctx);
  await assert.rejects(begin(db, ctx), { code: 'conflict' });
  const both = await Promise.allSettled([runRound(ctx, id, never), begin(db, ctx)]);
  assert.equal(both[0]!.status, 'fulfilled');
  await runRound(ctx, id, never);
  if (both[1]!.status === 'rejected') await begin(db, ctx);
  assert.equal((await listRounds(db)).length, 2);
});

/** Lets `fatal` be the last thing that happens: before the step, or after its work but before its outcome is written. */
async function killedAt(t: TestContext, step: StepName, when: 'before' | 'in commit') {
  const db = await testDatabase(t);
  const dead = fake(db, {
    [step]: async () => {
      if (when === 'before') throw new Killed();
      return {
        ...happy[step],
        commit: async (tx: Queryable) => {
          await tx.query(`insert into facts (key, value) values ('half', '1')`);
          throw new LearndError('conflict', 'killed', { data: { lost: true } });
        },
      };
    },
  });
  // A kill never reaches the code that records failures.
  dead.ctx = { ...dead.ctx, attempts: 100, log: silentLog };
  const { id } = await begin(db, dead.ctx);
  if (when === 'before') {
    const stop = new AbortController();
    const at = dead.ctx.steps[step];
    dead.ctx = {
      ...dead.ctx,
      steps: {
        ...dead.ctx.steps,
        [step]: async (round: RoundRow, signal: AbortSignal) => {
          stop.abort();
          return await at(round, signal);
        },
      },
    };
    await assert.rejects(runRound(dead.ctx, id, stop.signal), { code: 'canceled' });
  } else await assert.rejects(runRound(dead.ctx, id, never), /killed/);
  assert.equal((await db.query(`select 1 from facts where key = 'half'`)).rowCount, 0);
  const next = fake(db, {}, 2);
  const round = await runRound(next.ctx, id, never);
  assert.equal(round.state, 'published');
  assert.equal(round.fence, 2);
  return { dead: dead.calls, next: next.calls };
}

for (const step of order as StepName[]) {
  test(`killed in ${step}: the next daemon goes on there and repeats nothing before it`, async t => {
    for (const when of ['before', 'in commit'] as const) {
      const { dead, next } = await killedAt(t, step, when);
      const at = order.indexOf(step);
      assert.deepEqual(dead, order.slice(0, at + 1));
      assert.deepEqual(next, order.slice(at));
    }
  });
}

test('a retriable failure is tried again, a lasting one fails the round at once and settles', async t => {
  const db = await testDatabase(t);
  let tries = 0;
  const flaky = fake(db, {
    train: async () => {
      if (++tries < 3) throw new LearndError('dependency', 'the worker ended', { retriable: true });
      return happy.train;
    },
  });
  const first = await begin(db, flaky.ctx);
  assert.equal((await runRound(flaky.ctx, first.id, never)).state, 'published');
  assert.equal(tries, 3);

  const dying = fake(db, {
    train: async () => {
      throw new LearndError('dependency', 'the worker ended', { retriable: true });
    },
  });
  const second = await begin(db, dying.ctx);
  const failed = await runRound(dying.ctx, second.id, never);
  assert.deepEqual([failed.state, failed.error], ['failed', 'the worker ended']);
  assert.equal(dying.calls.filter(c => c === 'train').length, 3);
  assert.deepEqual((await db.query(`select value from facts where key = 'settled'`)).rows, [{ value: second.id }]);
  assert.equal(await failedInARow(db), 1);

  const broke = fake(db, {
    plan: async () => {
      throw new LearndError('budget_exhausted', 'epsilon 9 of 8');
    },
  });
  const third = await begin(db, broke.ctx);
  assert.equal((await runRound(broke.ctx, third.id, never)).state, 'refused');
  assert.deepEqual(broke.calls, ['plan']);
  assert.equal(await failedInARow(db), 1);
});

test("what an outcome's own rows refuse ends the round: nothing of it stays but the reason", async t => {
  const db = await testDatabase(t);
  const over = fake(db, {
    plan: async () => ({
      ...happy.plan,
      commit: async tx => {
        await tx.query(`insert into facts (key, value) values ('half', '1')`);
        throw new LearndError('budget_exhausted', 'over', { data: { spent: 7, limit: 8, delta: 1e-6 } });
      },
    }),
  });
  const first = await begin(db, over.ctx);
  const refused = await runRound(over.ctx, first.id, never);
  assert.deepEqual([refused.state, refused.error, refused.epsilon], ['refused', 'over', 0]);
  assert.equal((await db.query(`select 1 from facts where key = 'half'`)).rowCount, 0);
  assert.deepEqual(
    over.said.map(([type]) => type),
    ['learnd.round.started', 'learnd.budget.exhausted', 'learnd.round.finished'],
  );
  const torn = fake(db, {
    publish: async () => ({
      ...happy.publish,
      commit: async () => {
        throw new LearndError('corrupt', 'a file is missing');
      },
    }),
  });
  const second = await begin(db, torn.ctx);
  assert.equal((await runRound(torn.ctx, second.id, never)).state, 'failed');
});

test('a step that kills its process each time ends after the allowed tries', async t => {
  const db = await testDatabase(t);
  const { ctx } = fake(db);
  const { id } = await begin(db, ctx);
  // Three processes that died inside `plan` without a word.
  await db.query('update rounds set attempts = 3');
  const round = await runRound(ctx, id, never);
  assert.equal(round.state, 'failed');
  assert.match(round.error ?? '', /plan did not finish in 3 tries/);
});

test('an older leader can neither take a step nor overwrite one', async t => {
  const db = await testDatabase(t);
  const old = fake(db, {
    train: async () => {
      // While it trained, another took over.
      await db.query('update rounds set fence = 7');
      return happy.train;
    },
  });
  const { id } = await begin(db, old.ctx);
  await assert.rejects(runRound(old.ctx, id, never), { code: 'conflict' });
  await assert.rejects(runRound(old.ctx, id, never), { code: 'conflict' });
  assert.equal((await getRound(db, id)).state, 'reserved');
  const next = fake(db, {}, 7);
  assert.equal((await runRound(next.ctx, id, never)).state, 'published');
});

test('a rejected round ends; progress is seen while a step runs and gone after it', async t => {
  const db = await testDatabase(t);
  let seen: unknown;
  const { ctx } = fake(db, {
    train: async round => {
      await noteProgress(db, round.id, { stage: 'steps', done: 1, total: 2 });
      seen = (await getRound(db, round.id)).progress;
      return happy.train;
    },
    gate: async () => ({ to: 'rejected', verdict: { admitted: false } }),
  });
  const { id } = await begin(db, ctx);
  const round = await runRound(ctx, id, never);
  assert.deepEqual(seen, { stage: 'steps', done: 1, total: 2 });
  assert.deepEqual([round.state, round.progress, round.verdict], ['rejected', null, { admitted: false }]);
  assert.ok(round.finished_at);
});

test('an outcome that the table does not allow is an error of the program', async t => {
  const db = await testDatabase(t);
  const { ctx } = fake(db, { plan: async () => ({ to: 'published' }), train: async () => ({ to: 'published' }) });
  const { id } = await begin(db, ctx);
  assert.equal((await runRound(ctx, id, never)).state, 'published');
  const other = fake(db, { train: async () => ({ to: 'published' }) });
  const next = await begin(db, other.ctx);
  await assert.rejects(runRound(other.ctx, next.id, never), { code: 'internal' });
});
