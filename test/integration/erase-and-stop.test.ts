import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { availableParallelism, loadavg } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { WebSocket } from 'ws';
import type { Database } from '../../src/store/database.ts';
import { eventually, learnd, startTestDaemon, type TestDaemon, testFolder } from '../support/daemon.ts';
import { documentEvents, documents } from '../support/documents.ts';
import { assertSound, descendants, QUICK_SETTINGS, quickPolicies, roundIs, withDatabase } from '../support/faults.ts';

/** Somebody is forgotten after a version has learned from them; and the daemon is told to stop in the middle of an answer. */

const SETTINGS = `${QUICK_SETTINGS}tasks: [{ name: intent, labels: [parcel, card] }]\n`;
const USER = 'writer-7';
const WORDS = 'zanzibar quokka';

const label = (id: string, user: string) => ({
  specversion: '1.0',
  id,
  source: 'app',
  type: 'learnd.feedback.label',
  data: { task: 'intent', text: `where is my ${WORDS} parcel?`, label: 'parcel', user },
});

/** Every table with a row that holds the text somewhere. */
async function tablesWith(db: Database, text: string): Promise<string[]> {
  const tables = await db.query<{ name: string }>(
    `select table_name as name from information_schema.tables where table_schema = 'public' order by 1`,
  );
  const found: string[] = [];
  for (const { name } of tables.rows) {
    // bytea as text is hexadecimal: a payload is looked for in both spellings.
    const { rows } = await db.query<{ n: number }>(
      `select count(*) as n from "${name}" t where position($1 in t::text) > 0 or position(encode($1::bytea, 'hex') in t::text) > 0`,
      [text],
    );
    if (rows[0]!.n > 0) found.push(name);
  }
  return found;
}

test('erasure of a user whose rows trained a version; SIGTERM in an answer; the second start', {
  timeout: 400_000,
}, async t => {
  const folder = testFolder(t, 'erase');
  const start = (): Promise<TestDaemon> =>
    startTestDaemon(t, {
      data: folder,
      settings: SETTINGS,
      policies: quickPolicies('champion.version == 1 && documents.new >= 150'),
    });
  let daemon = await start();
  // Held out or not is a keyed hash of the user: with enough documents of enough users one of two is trained on.
  const own = documentEvents(documents('log', 3, 9), 'own', () => USER).map((event, i) => {
    const { data, ...rest } = event as { data: { text: string } };
    return { ...rest, data: { ...data, text: `${data.text} ${WORDS} ${i}` } };
  });
  const erase = async (user: string): Promise<Record<string, unknown>> => {
    const run = await learnd(['erase', user, '--data', daemon.data, '--json']);
    assert.equal(run.code, 0, run.stderr);
    return JSON.parse(run.stdout) as Record<string, unknown>;
  };

  await t.test('erase: rows gone from every table, refused from then on, the versions named', async () => {
    const asked = (await daemon.post('/v1/responses', {
      input: `the ${WORDS} parcel`,
      max_output_tokens: 4,
      metadata: { user: USER },
    })) as { id: string };
    assert.equal(((await daemon.post('/v1/feedback', label('l-1', USER))) as { accepted: number }).accepted, 1);
    await daemon.post('/v1/documents', own);
    await daemon.post(
      '/v1/documents',
      documentEvents(documents('mail', 240, 1), 'inbox', i => `reader-${i}`),
    );
    await withDatabase(daemon.data, async db => {
      await roundIs(db, 'a round learns from them', ({ state }) => state === 'published');
      assert.deepEqual(await tablesWith(db, WORDS), ['documents', 'exchanges', 'feedback']);
      const { rows: mine } = await db.query<{ split: string; n: number }>(
        `select split, count(*) as n from documents where user_id = $1 group by split`,
        [USER],
      );
      const trained = mine[0]!.split === 'train';

      const receipt = await erase(USER);
      assert.deepEqual(receipt.rows, { feedback: 1, documents: 3, exchanges: 1, dead_letters: 0 });
      assert.equal(receipt.running_round, null);
      const [version] = receipt.versions as { version: string; role: string; epsilon: number; guarantee: string }[];
      assert.equal(version!.version, 'learnd@2');
      assert.equal(version!.role, trained ? 'trained' : 'evaluated');
      if (trained) assert.match(version!.guarantee, /user-level differential privacy of its round: epsilon (2\.9|3)/);
      assert.deepEqual(await tablesWith(db, WORDS), [], 'nothing the user wrote is left');
      assert.deepEqual(await tablesWith(db, USER), [], 'nor the name');

      for (const event of [label('l-1', USER), label('l-2', USER)]) {
        const refused = await daemon.post('/v1/feedback', event).catch(String);
        assert.match(String(refused), /400 .*erased/);
      }
      assert.match(String(await daemon.post('/v1/documents', own).catch(String)), /400 .*erased/);
      assert.equal(((await daemon.post('/v1/feedback', label('l-3', 'reader-1'))) as { accepted: number }).accepted, 1);
      // A later answer for the user is given and not kept, and the earlier one cannot be continued from memory.
      await daemon.post('/v1/responses', {
        input: `the ${WORDS} again`,
        max_output_tokens: 4,
        metadata: { user: USER },
      });
      const continued = daemon.post('/v1/responses', {
        input: 'and then?',
        previous_response_id: asked.id,
        max_output_tokens: 4,
      });
      assert.match(String(await continued.catch(String)), /400 .*previous response .* not found/);
      assert.deepEqual(await tablesWith(db, USER), []);
      const again = await erase(USER);
      assert.deepEqual([again.rows, again.versions], [receipt.rows, receipt.versions], 'asking again loses nothing');
      await assertSound(db);
    });
  });

  await t.test('SIGTERM: the answer in flight is finished and stored, exit code 0, no child left', async () => {
    const left = descendants(daemon.process.pid!);
    const asking = { input: 'tell me about my parcel', max_output_tokens: 300 };
    const begun = new Set<unknown>();
    const byHttp = Array.from({ length: 3 }, async () => {
      const response = await fetch(`${daemon.url}/v1/responses`, {
        method: 'POST',
        headers: { authorization: `Bearer ${daemon.key}`, 'content-type': 'application/json' },
        body: JSON.stringify({ ...asking, stream: true }),
      });
      let text = '';
      for await (const chunk of response.body!) {
        text += Buffer.from(chunk).toString();
        begun.add(response);
      }
      return text;
    });
    const bySocket = Array.from(
      { length: 3 },
      () =>
        new Promise<string>((resolve, reject) => {
          const headers = { authorization: `Bearer ${daemon.key}` };
          const socket = new WebSocket(`${daemon.url.replace('http', 'ws')}/v1/responses`, { headers });
          let text = '';
          socket.on('open', () => socket.send(JSON.stringify({ type: 'response.create', model: 'learnd', ...asking })));
          socket.on('message', data => {
            text += `${String(data)}\n`;
            begun.add(socket);
          });
          socket.on('close', () => resolve(text));
          socket.on('error', reject);
        }),
    );
    await eventually('all are under way', async () => (begun.size === 6 ? true : undefined), 60_000, 1);
    const stopping = Date.now();
    const stopped = daemon.stop();
    const answers = await Promise.all([...byHttp, ...bySocket]);
    for (const text of answers) assert.match(text, /"type":"response\.(completed|incomplete)"/, text.slice(-300));
    assert.equal(await stopped, 0, daemon.log());
    t.diagnostic(`stopped within ${Date.now() - stopping} ms`);
    assert.ok(!/could not be stored/.test(daemon.log()), daemon.log());
    await eventually(
      'no child is left',
      async () => {
        const now = descendants(1).concat(descendants(process.pid));
        return left.some(({ pid, started }) => now.some(p => p.pid === pid && p.started === started))
          ? undefined
          : true;
      },
      20_000,
    );
    const ids = answers.map(text => /"id":"(resp_[^"]+)"/.exec(text)![1]!);
    // Another program has the number of the daemon before, as happens in a container that was killed.
    const stale = { pid: process.pid, started: '1', url: 'http://127.0.0.1:1' };
    writeFileSync(join(daemon.data, 'daemon.json'), JSON.stringify(stale));
    const restarting = Date.now();
    daemon = await start();
    const took = Date.now() - restarting;
    t.diagnostic(`second start: ready within ${took} ms`);
    // On a machine that others keep busy the time says nothing.
    if (loadavg()[0]! < availableParallelism()) assert.ok(took < 10_000, `the second start took ${took} ms`);
    await withDatabase(daemon.data, async db => {
      const { rows } = await db.query<{ n: number }>(
        'select count(*) as n from exchanges where response_id = any($1)',
        [ids],
      );
      assert.equal(rows[0]!.n, ids.length, 'answers given while stopping are stored');
    });
    const answer = (await daemon.post('/v1/responses', { input: 'my parcel', max_output_tokens: 4 })) as {
      model: string;
    };
    assert.equal(answer.model, 'learnd@2', 'it goes on with the same champion');
    const twice = await learnd(['start', '--data', daemon.data, '--port', '0']);
    assert.notEqual(twice.code, 0);
    assert.match(twice.stderr, /learnd: a daemon runs on .* already \(process \d+\)/);
    assert.match(String(await daemon.post('/v1/feedback', label('l-4', USER)).catch(String)), /400 .*erased/);
    assert.equal(await daemon.stop(), 0);
  });

  await t.test('SIGTERM during a start: given up at once, exit code 0', async () => {
    const starting = await startTestDaemon(t, {
      data: testFolder(t, 'early-stop'),
      settings: SETTINGS,
      policies: quickPolicies(),
      env: { DATABASE_URL: 'postgres://learnd@127.0.0.1:1/none' },
      listening: true,
    });
    const begun = Date.now();
    assert.equal(await starting.stop(), 0, starting.log());
    assert.ok(Date.now() - begun < 15_000);
    assert.ok(!/learnd: the start was called off/.test(starting.log()), starting.log());
  });
});
