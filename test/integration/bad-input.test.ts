import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { connect as dial } from 'node:net';
import { join } from 'node:path';
import test from 'node:test';
import { WebSocket } from 'ws';
import { cacheFolder } from '../../src/base/settings.ts';
import { createKey } from '../../src/store/keys.ts';
import { eventually, learnd, startTestDaemon, type TestDaemon, testFolder } from '../support/daemon.ts';
import { documentEvents, documents } from '../support/documents.ts';
import { assertSound, newestRound, QUICK_SETTINGS, quickPolicies, withDatabase } from '../support/faults.ts';

/** What people and programs get wrong, against a real daemon: each a clear error, nothing stored, nothing crashed. */

const GOOD = {
  specversion: '1.0',
  id: '1',
  source: 'app',
  type: 'learnd.document',
  data: { text: 'a note', source: 's' },
};

interface Refused {
  status: number;
  error: { message: string; code: string; param: string | null };
}

async function send(
  daemon: TestDaemon,
  body: string,
  options: { path?: string; key?: string | null } = {},
): Promise<Refused> {
  const { path = '/v1/documents', key = daemon.key } = options;
  const response = await fetch(`${daemon.url}${path}`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...(key === null ? {} : { authorization: `Bearer ${key}` }) },
    body,
  });
  const { error } = (await response.json()) as { error: Refused['error'] };
  return { status: response.status, error };
}

/** 50 MB in chunks, no length told before. @returns the status line, once the server has said it */
function flood(daemon: TestDaemon): Promise<string> {
  const { hostname, port } = new URL(daemon.url);
  return new Promise((resolve, reject) => {
    const socket = dial(Number(port), hostname);
    let said = '';
    let sent = 0;
    const chunk = `100000\r\n${'x'.repeat(0x100000)}\r\n`;
    const more = (): void => {
      while (sent < 50 && !socket.destroyed) {
        sent++;
        if (!socket.write(chunk)) {
          socket.once('drain', more);
          return;
        }
      }
    };
    socket.on('data', data => {
      said += data.toString('latin1');
      if (said.includes('\r\n')) {
        socket.destroy();
        resolve(said.split('\r\n')[0]!);
      }
    });
    socket.on('error', error => (said === '' ? reject(error) : undefined));
    socket.write(
      `POST /v1/documents HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${daemon.key}\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n`,
    );
    more();
  });
}

/** The newest small model: the daemons above have made it where it was missing. */
function scratchModel(): string {
  const models = join(cacheFolder(), 'models');
  const newest = readdirSync(models)
    .filter(name => /^scratch-.*\.gguf$/.test(name))
    .map(name => join(models, name))
    .sort((a, b) => statSync(a).mtimeMs - statSync(b).mtimeMs)
    .at(-1);
  assert.ok(newest !== undefined, 'no small model has been made');
  return newest;
}

const memoryMb = (pid: number): number =>
  Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))![1]) / 1024;

test('requests, keys and policies that are wrong', { timeout: 240_000 }, async t => {
  const folder = testFolder(t, 'bad-input');
  const daemon = await startTestDaemon(t, { data: folder, settings: QUICK_SETTINGS, policies: quickPolicies() });

  await t.test('bodies', async () => {
    const malformed = await send(daemon, '{"specversion": "1.0", ');
    assert.equal(malformed.status, 400);
    assert.match(malformed.error.message, /not valid JSON/);
    const type = await send(daemon, JSON.stringify({ ...GOOD, type: 'learnd.feedback.emoji' }));
    assert.equal(type.status, 400);
    assert.match(type.error.message, /unknown type; known: learnd\./);
    const field = await send(daemon, JSON.stringify({ ...GOOD, data: { ...GOOD.data, colour: 'red' } }));
    assert.deepEqual([field.status, field.error.param], [400, 'data.colour']);
    const wrongPath = await send(daemon, JSON.stringify(GOOD), { path: '/v1/feedback' });
    assert.match(wrongPath.error.message, /learnd\.document does not belong to feedback/);
    const empty = await send(daemon, '[]');
    assert.match(empty.error.message, /empty/);
    const before = memoryMb(daemon.process.pid!);
    const large = await send(daemon, JSON.stringify({ ...GOOD, data: { text: 'x'.repeat(50e6), source: 's' } }));
    assert.deepEqual([large.status, large.error.code], [413, 'too_large']);
    assert.match(await flood(daemon), /^HTTP\/1\.1 413 /);
    const grown = memoryMb(daemon.process.pid!) - before;
    assert.ok(grown < 150, `100 MB of refused bodies cost ${Math.round(grown)} MB`);
    const mixed = (await daemon.post('/v1/documents', [{ ...GOOD, type: 'no' }, GOOD, 7])) as {
      accepted: number;
      rejected: { index: number; field: string }[];
    };
    assert.equal(mixed.accepted, 1);
    assert.deepEqual(
      mixed.rejected.map(({ index, field: at }) => [index, at]),
      [
        [0, 'type'],
        [2, ''],
      ],
    );
  });

  await t.test('frames on a socket', async () => {
    const socket = new WebSocket(`${daemon.url.replace('http', 'ws')}/v1/responses`, {
      headers: { authorization: `Bearer ${daemon.key}` },
    });
    await new Promise((resolve, reject) => {
      socket.once('open', resolve);
      socket.once('error', reject);
    });
    const ask = (text: string): Promise<{ type: string; error?: { message: string } }> =>
      new Promise(resolve => {
        socket.once('message', data => resolve(JSON.parse(String(data))));
        socket.send(text);
      });
    for (const [frame, said] of [
      ['not JSON', /not valid JSON/],
      ['{"type":"response.imagine"}', /unknown type; known: response\.create/],
      ['{"type":"learnd.response.resume"}', /not available in this version/],
      ['{"type":"learnd.feedback.create","event":{"type":"x"}}', /the event was refused/],
    ] as const) {
      const { type, error } = await ask(frame);
      assert.equal(type, 'error', frame);
      assert.match(error!.message, said);
    }
    const { type } = await ask('{"type":"response.create","model":"learnd","input":"my parcel","max_output_tokens":4}');
    assert.equal(type, 'response.created', 'the socket still answers');
    socket.close();
  });

  await t.test('keys', async () => {
    const body = JSON.stringify(GOOD);
    const none = await send(daemon, body, { key: null });
    assert.deepEqual([none.status, none.error.code], [401, 'unauthorized']);
    const wrong = await send(daemon, body, { key: 'learnd_wrong' });
    assert.deepEqual([wrong.status, wrong.error.code], [401, 'invalid_api_key']);
    const { token } = await withDatabase(daemon.data, db => createKey(db, { name: 'reader', scopes: ['respond'] }));
    const out = await send(daemon, body, { key: token });
    assert.equal(out.status, 403);
    assert.match(out.error.message, /no scope feedback; it has: respond/);
    const admin = await fetch(`${daemon.url}/v1/admin/status`, { headers: { authorization: `Bearer ${token}` } });
    assert.equal(admin.status, 403);
    const asked = await send(daemon, JSON.stringify({ input: 'my parcel', max_output_tokens: 2 }), {
      path: '/v1/responses',
      key: token,
    });
    assert.equal(asked.status, 200);
  });

  await t.test('a policy with a mistake: told with line and column, the last good one stays', async () => {
    const file = join(folder, 'policies.yaml');
    const policy = async () =>
      (await daemon.get('/v1/admin/policies')) as { id: number; text: string; problem: { findings: unknown[] } | null };
    const before = await policy();
    assert.equal(before.problem, null);
    const typo = quickPolicies().replace('champion.version == 0', 'champion.versoin == 0');
    writeFileSync(file, typo);
    const during = await eventually(
      'the mistake is seen',
      async () => {
        const now = await policy();
        return now.problem === null ? undefined : now;
      },
      20_000,
    );
    assert.deepEqual([during.id, during.text], [before.id, before.text]);
    assert.match(daemon.log(), /policies\.yaml:4:\d+: .*versoin/);
    assert.match(daemon.log(), /the last good policy stays in force/);
    const check = await learnd(['policy', 'check', file, '--config', join(folder, 'learnd.yaml')]);
    assert.notEqual(check.code, 0);
    assert.match(check.stdout + check.stderr, /policies\.yaml:4:\d+: .*versoin/);
    const refused = await send(daemon, JSON.stringify({ text: typo }), { path: '/v1/admin/policies' });
    assert.equal(refused.status, 400);
    const good = quickPolicies('champion.version == 99');
    writeFileSync(file, good);
    const after = await eventually(
      'the mended file is in force',
      async () => {
        const now = await policy();
        return now.text === good ? now : undefined;
      },
      20_000,
    );
    assert.equal(after.problem, null);
  });

  await withDatabase(daemon.data, async db => {
    const { rows } = await db.query<{ n: number }>('select count(*) as n from events');
    assert.equal(rows[0]!.n, 1, 'only the one good event was stored');
  });
  assert.equal(await daemon.stop(), 0);
});

test('a base that is no model: one line, a non-zero exit, nothing left running', { timeout: 240_000 }, async t => {
  const folder = testFolder(t, 'bad-base');
  const whole = readFileSync(scratchModel());
  const bases: Record<string, Buffer> = {
    'noise.gguf': randomBytes(100_000),
    'cut.gguf': whole.subarray(0, whole.length >> 1),
    'empty.gguf': Buffer.alloc(0),
  };
  for (const [name, bytes] of Object.entries(bases)) {
    const base = join(folder, name);
    writeFileSync(base, bytes);
    const config = join(folder, 'learnd.yaml');
    writeFileSync(config, `base: ${base}\n`);
    const run = await learnd(['start', '--config', config, '--data', join(folder, `data-${name}`), '--port', '0']);
    assert.notEqual(run.code, 0, name);
    const said = run.stderr.split('\n').filter(line => line.startsWith('learnd: '));
    assert.equal(said.length, 1, run.stderr);
    assert.match(said[0]!, new RegExp(name.replace('.', '\\.')), said[0]);
    assert.ok(!/internal error|TypeError|RangeError/.test(said[0]!), said[0]);
    t.diagnostic(said[0]!.replaceAll(folder, '…'));
  }
});

const enter = ['unshare', '--user', '--map-root-user', '--mount', '--'];
const mountable =
  spawnSync(enter[0]!, [...enter.slice(1), 'mount', '-t', 'tmpfs', 'none', '/mnt'], { stdio: 'ignore' }).status === 0;

test('a full disk for artifacts: the round fails and says so, the daemon lives', {
  timeout: 240_000,
  skip: !mountable && 'no mount namespaces here',
}, async t => {
  const artifacts = testFolder(t, 'full-disk');
  // The base fits, a trained version beside it does not.
  const size = Math.ceil((1.25 * statSync(scratchModel()).size) / 1024);
  const mount = ['sh', '-c', `mount -t tmpfs -o size=${size}k none "$1" && shift && exec "$@"`, 'sh', artifacts];
  const daemon = await startTestDaemon(t, {
    data: testFolder(t, 'full-disk-data'),
    settings: QUICK_SETTINGS,
    policies: quickPolicies('documents.new >= 150'),
    env: { LEARND_ARTIFACTS_URL: artifacts, LEARND_TRAIN_ATTEMPTS: '1' },
    within: [...enter, ...mount],
  });
  await daemon.post(
    '/v1/documents',
    documentEvents(documents('mail', 240, 1), 'inbox', i => `writer-${i}`),
  );
  await withDatabase(daemon.data, async db => {
    const round = await eventually(
      'the round ends',
      async () => {
        const now = await newestRound(db);
        return now?.finished_at ? now : undefined;
      },
      180_000,
    );
    assert.equal(round.state, 'failed');
    assert.match(round.error!, /the disk of the artifacts store is full \(.*Free space or set artifacts_url/);
    await assertSound(db);
    const { rows } = await db.query<{ n: number }>('select count(*) as n from versions');
    assert.equal(rows[0]!.n, 1);
  });
  const answer = (await daemon.post('/v1/responses', { input: 'my parcel', max_output_tokens: 4 })) as {
    model: string;
  };
  assert.equal(answer.model, 'learnd@1');
  assert.equal((await fetch(`${daemon.url}/readyz`)).status, 200);
  assert.equal(await daemon.stop(), 0);
});
