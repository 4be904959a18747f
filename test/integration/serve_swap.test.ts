import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { after, before } from 'node:test';
import OpenAI from 'openai';
import { ResponsesWS } from 'openai/resources/responses/ws';
import { sleep } from '../../src/base/clock.ts';
import { json, startServing, type TestServing } from '../support/serving.ts';
import { writeTinyHead, writeTinyLora } from '../support/tiny-model.ts';

let s: TestServing;
const ends: Array<() => unknown> = [];
before(async () => {
  s = await startServing({ after: (end?: () => unknown) => ends.push(end!) }, { serve: { context: 1024 } });
});
after(async () => {
  for (const end of ends.reverse()) await end();
});

interface Seen {
  version: string;
  text: string;
  end: string;
}

/** Asks over one open socket again and again until told to stop. */
async function streaming(input: string, signal: AbortSignal, seen: Seen[], tokens = 40): Promise<void> {
  const socket = new ResponsesWS(new OpenAI({ apiKey: 'admin-key', baseURL: `${s.url}/v1` }));
  let now: Seen = { version: '', text: '', end: '' };
  let done: () => void = () => undefined;
  socket.on('error', error => {
    now.end = `error ${error.message}`;
    done();
  });
  socket.on('event', event => {
    if (event.type === 'response.created') now.version = event.response.model as string;
    if (event.type === 'response.output_text.delta') now.text += event.delta;
    if (
      event.type === 'response.incomplete' ||
      event.type === 'response.completed' ||
      event.type === 'response.failed'
    ) {
      now.end = event.type;
      assert.equal(event.response.model, now.version);
      done();
    }
  });
  while (!signal.aborted) {
    now = { version: '', text: '', end: '' };
    const ended = new Promise<void>(resolve => {
      done = resolve;
    });
    socket.send({ type: 'response.create', model: 'tiny', input, max_output_tokens: tokens });
    await ended;
    seen.push(now);
  }
  socket.close();
}

test('a swap under streaming clients: every answer whole and from one version, none dropped', async () => {
  await s.serving.setChampion(await s.version(1, { says: 'a' }));
  const stop = new AbortController();
  const seen: Seen[] = [];
  const clients = Promise.all(['x', 'y', 'z'].map(input => streaming(input, stop.signal, seen)));
  const count = (version: string) => seen.filter(answer => answer.version === version).length;
  const until = async (version: string) => {
    for (let n = 0; n < 3_000 && count(version) < 3; n++) await sleep(10);
  };
  await until('tiny@1');
  const base = await s.version(2, { says: 'b' });
  await s.serving.setChampion(base);
  await until('tiny@2');
  const adapter = { path: await writeTinyLora(base.model, join(s.folder, 'l.gguf'), 3), scale: 1 };
  await s.serving.setChampion(await s.version(3, { says: 'c', more: { model: base.model, adapter } }));
  await until('tiny@3');
  stop.abort();
  await clients;
  const letters: Record<string, string> = { 'tiny@1': 'a', 'tiny@2': 'b', 'tiny@3': 'c' };
  for (const answer of seen) {
    assert.equal(answer.end, 'response.incomplete');
    assert.equal(answer.text, letters[answer.version]!.repeat(40), answer.version);
  }
  for (const version of Object.keys(letters)) assert.ok(count(version) >= 3, `${version}: ${count(version)} answers`);
  for (let n = 0; n < 3_000 && s.serving.versions.loaded().some(({ inUse }) => inUse > 0); n++) await sleep(10);
  assert.deepEqual(
    s.serving.versions.loaded().map(({ version, role, inUse }) => [version, role, inUse]),
    [
      ['tiny@1', 'other', 0],
      ['tiny@2', 'previous', 0],
      ['tiny@3', 'champion', 0],
    ],
  );
});

test('an answer in flight finishes on its version after the swap; an old version can still be asked for', async () => {
  await s.serving.setChampion(await s.version(11, { says: 'a' }));
  const long = s.post('/v1/responses', { input: 'q', max_output_tokens: 400 });
  for (let n = 0; n < 5_000 && !s.serving.versions.loaded().some(v => v.version === 'tiny@11' && v.inUse > 0); n++)
    await sleep(5);
  await s.serving.setChampion(await s.version(12, { says: 'b' }));
  const short = await json(await s.post('/v1/responses', { input: 'q', max_output_tokens: 3 }));
  assert.deepEqual([short.model, short.output_text], ['tiny@12', 'bbb']);
  const whole = await json(await long);
  assert.deepEqual([whole.model, whole.output_text], ['tiny@11', 'a'.repeat(400)]);
  const old = await json(await s.post('/v1/responses', { input: 'q', model: 'tiny@11', max_output_tokens: 3 }));
  assert.deepEqual([old.model, old.output_text], ['tiny@11', 'aaa']);
});

test('classifications move with the version, whole', async () => {
  const labels = ['balance', 'transfer', 'card_lost'];
  const one = await s.version(21);
  await s.serving.setChampion({ ...one, heads: { intent: await writeTinyHead(one.model, s.folder, 'h1', labels, 1) } });
  const two = {
    ...(await s.version(22)),
    heads: { intent: await writeTinyHead(one.model, s.folder, 'h2', labels, 2) },
  };
  const texts = Array.from({ length: 40 }, (_, i) => `text number ${i}`);
  const ask = async () => JSON.stringify(await json(await s.post('/v1/classify', { task: 'intent', texts })));
  const before = await ask();
  const during = Array.from({ length: 6 }, () => ask());
  await s.serving.setChampion(two);
  const afterwards = await ask();
  assert.match(before, /tiny@21/);
  assert.match(afterwards, /tiny@22/);
  assert.notEqual(before.replace('tiny@21', ''), afterwards.replace('tiny@22', ''));
  for (const answer of await Promise.all(during)) assert.ok(answer === before || answer === afterwards);
});

test('a version that cannot be loaded leaves the champion where it is and says why', async () => {
  const good = await s.version(31, { says: 'a' });
  await s.serving.setChampion(good);
  const bad = join(s.folder, 'bad.gguf');
  writeFileSync(bad, Buffer.alloc(4_096, 'x'));
  const wrong = async (n: number, more: object, message: RegExp) =>
    assert.rejects(s.serving.setChampion({ ...good, version: `tiny@${n}`, sha256: `${n}`, ...more }), message);
  await wrong(32, { model: bad }, /not a GGUF file/);
  await wrong(33, { model: `${bad}.none` }, /not found/);
  await wrong(34, { adapter: { path: bad, scale: 1 } }, /not a GGUF file/);
  await wrong(
    35,
    { heads: { intent: { file: `${bad}.none`, features: good.model, layer: 1, labels: ['a'] } } },
    /bad\.gguf\.none/,
  );
  await assert.rejects(s.serving.setChampion({ ...good, sha256: 'other' }), /versions do not change/);
  const answer = await json(await s.post('/v1/responses', { input: 'q', max_output_tokens: 3 }));
  assert.deepEqual([answer.model, answer.output_text], ['tiny@31', 'aaa']);
  assert.equal((await s.request('/readyz')).status, 200);
});

test('the engine killed in the middle of an answer: that answer fails, the next one comes', async () => {
  await s.serving.setChampion(await s.version(41, { says: 'a' }));
  const stop = new AbortController();
  const seen: Seen[] = [];
  const client = streaming('q', stop.signal, seen, 900);
  for (let n = 0; n < 5_000 && !s.serving.versions.loaded().some(v => v.version === 'tiny@41' && v.inUse > 0); n++)
    await sleep(5);
  await sleep(30);
  process.kill(s.serving.engine.pid!, 'SIGKILL');
  for (let n = 0; n < 3_000 && seen.length === 0; n++) await sleep(10);
  assert.equal(seen[0]?.end, 'response.failed');
  assert.equal(seen[0]?.version, 'tiny@41');
  stop.abort();
  const answer = await s.post('/v1/responses', { input: 'q', max_output_tokens: 3 });
  assert.equal(answer.status, 200);
  assert.deepEqual((await json(answer)).output_text, 'aaa');
  await client;
  assert.equal(seen.at(-1)?.end, 'response.incomplete');
  assert.equal(s.serving.engine.restarts, 1);
  assert.ok(s.ports.served.some(served => served.error === 'dependency'));
});

test('the engine ends by itself when the process that started it is killed', async () => {
  const entry = new URL('../../src/serve/engine/engine.ts', import.meta.url).href;
  const script = `const { EngineProcess } = await import(${JSON.stringify(entry)});
    const engine = new EngineProcess(); await engine.start(); console.log(engine.pid); setInterval(() => {}, 1000);`;
  const args = ['--import', import.meta.resolve('tsx'), '--input-type=module', '-e', script];
  const parent = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  const pid = Number(await new Promise(resolve => parent.stdout.once('data', resolve)));
  const alive = () => {
    try {
      return process.kill(pid, 0);
    } catch {
      return false; // no such process: what is hoped for
    }
  };
  assert.ok(pid > 0 && alive());
  parent.kill('SIGKILL');
  for (let n = 0; n < 1_500 && alive(); n++) await sleep(20);
  assert.ok(!alive());
});
