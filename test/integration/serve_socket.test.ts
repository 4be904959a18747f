import assert from 'node:assert/strict';
import { connect } from 'node:net';
import test, { after, before } from 'node:test';
import OpenAI from 'openai';
import { ResponsesWS } from 'openai/resources/responses/ws';
import { WebSocket } from 'ws';
import { sleep } from '../../src/base/clock.ts';
import { startServing, type TestServing } from '../support/serving.ts';

let s: TestServing;
const ends: Array<() => unknown> = [];
before(async () => {
  s = await startServing({ after: (end?: () => unknown) => ends.push(end!) }, { serve: { context: 1024 } });
  await s.serving.setChampion(await s.version(1, { says: 'a' }));
});
after(async () => {
  for (const end of ends.reverse()) await end();
});

type Frame = Record<string, unknown> & { type: string };

/** A bare socket: sends frames, collects frames. */
class Client {
  readonly frames: Frame[] = [];
  readonly ws: WebSocket;
  closed: number | undefined;

  constructor(key = 'admin-key') {
    this.ws = new WebSocket(`${s.url.replace('http', 'ws')}/v1/responses`, {
      headers: { authorization: `Bearer ${key}` },
    });
    this.ws.on('message', data => this.frames.push(JSON.parse(String(data)) as Frame));
    this.ws.on('close', code => {
      this.closed = code;
    });
    this.ws.on('error', () => undefined);
  }

  async open(): Promise<this> {
    await new Promise(resolve => this.ws.once('open', resolve));
    return this;
  }

  send(frame: unknown): void {
    this.ws.send(typeof frame === 'string' ? frame : JSON.stringify(frame));
  }

  async until(check: (frame: Frame) => boolean): Promise<Frame> {
    for (let n = 0; n < 3_000; n++) {
      const found = this.frames.find(check);
      if (found !== undefined) return found;
      await sleep(10);
    }
    throw new Error(`no such frame among ${this.frames.map(frame => frame.type).join(' ')}`);
  }
}

test('ResponsesWS of the official client, unchanged: two answers on one socket, a conversation, store: false', async () => {
  const openai = new OpenAI({ apiKey: 'respond-key', baseURL: `${s.url}/v1` });
  const socket = new ResponsesWS(openai);
  const ask = (request: Record<string, unknown>) =>
    new Promise<{
      text: string;
      events: Array<{ type: string; sequence_number: number }>;
      response: OpenAI.Responses.Response;
    }>((resolve, reject) => {
      const events: Array<{ type: string; sequence_number: number }> = [];
      let text = '';
      const onEvent = (event: OpenAI.Responses.ResponsesServerEvent) => {
        events.push(event as never);
        if (event.type === 'response.output_text.delta') text += event.delta;
        if (event.type === 'response.completed' || event.type === 'response.incomplete') {
          socket.off('event', onEvent);
          resolve({ text, events, response: event.response });
        }
      };
      socket.on('event', onEvent);
      socket.on('error', reject);
      socket.send({ type: 'response.create', model: 'tiny', max_output_tokens: 6, ...request });
    });
  const first = await ask({ input: 'hello', store: false });
  assert.equal(first.text, 'aaaaaa');
  assert.equal(first.response.model, 'tiny@1');
  assert.deepEqual(
    first.events.map(event => event.sequence_number),
    first.events.map((_, i) => i),
  );
  assert.equal(first.events[0]?.type, 'response.created');
  assert.equal(s.ports.exchanges.size, 0, 'store: false is not stored');
  const second = await ask({ input: 'and?', previous_response_id: first.response.id, metadata: { user: 'u7' } });
  assert.ok(second.response.usage!.input_tokens > first.response.usage!.input_tokens + 'and?'.length);
  assert.equal(s.ports.exchanges.get(second.response.id)?.user, 'u7');
  socket.close();
});

test('an upgrade without a key, with a wrong one, out of scope or elsewhere is refused by HTTP', async () => {
  const status = (headers: Record<string, string>, path = '/v1/responses') =>
    new Promise<number | undefined>((resolve, reject) => {
      const ws = new WebSocket(`${s.url.replace('http', 'ws')}${path}`, { headers });
      ws.on('unexpected-response', (_, response) => resolve(response.statusCode));
      ws.on('open', () => reject(new Error('it opened')));
      ws.on('error', () => undefined);
    });
  assert.equal(await status({}), 401);
  assert.equal(await status({ authorization: 'Bearer wrong' }), 401);
  assert.equal(await status({ authorization: 'Bearer feedback-key' }), 403);
  assert.equal(await status({ authorization: 'Bearer admin-key' }, '/v1/other'), 404);
});

test('mistakes are answered by error frames and the socket lives on', async () => {
  const client = await new Client().open();
  const cases: Array<[unknown, string | null]> = [
    ['{ not json', ''],
    ['[]', ''],
    [{ no: 'type' }, 'type'],
    [{ type: 'session.update' }, 'type'],
    [{ type: 'response.create' }, 'input'],
    [{ type: 'response.create', input: 'x', colour: 'red' }, 'colour'],
    [{ type: 'response.create', input: 'x', previous_response_id: 'resp_none' }, 'previous_response_id'],
    [{ type: 'learnd.feedback.create' }, 'event'],
    [{ type: 'learnd.feedback.create', event: {}, extra: 1 }, 'extra'],
  ];
  for (const [frame, param] of cases) {
    client.frames.length = 0;
    client.send(frame);
    const error = await client.until(answer => answer.type === 'error');
    assert.equal(error.status, 400);
    assert.equal((error.error as { param: string }).param, param, JSON.stringify(frame));
    assert.equal(error.message, (error.error as { message: string }).message);
  }
  for (const type of ['learnd.response.resume', 'learnd.events.subscribe']) {
    client.frames.length = 0;
    client.send({ type, event_id: 'e1' });
    const error = await client.until(answer => answer.type === 'error');
    assert.match(String(error.message), new RegExp(`${type} is not available in this version`));
    assert.equal(error.event_id, 'e1');
  }
  client.frames.length = 0;
  client.send({ type: 'response.create', model: 'gpt-4o', input: 'x' });
  assert.equal((await client.until(answer => answer.type === 'error')).status, 404);
  client.ws.send(Buffer.from([1, 2, 3]));
  client.send({ type: 'response.create', input: 'x', max_output_tokens: 3 });
  await client.until(answer => answer.type === 'response.incomplete');
  assert.equal(client.closed, undefined);
  client.ws.close();
});

test('feedback on the socket: accepted once durable, refused without the scope, reported while the store is down', async () => {
  s.ports.reset();
  const client = await new Client().open();
  const event = {
    specversion: '1.0',
    type: 'learnd.feedback.rating',
    source: 'app',
    id: '1',
    data: { response_id: 'r', value: 1, user: 'u' },
  };
  client.send({ type: 'learnd.feedback.create', event_id: 'f1', event });
  const accepted = await client.until(frame => frame.type === 'learnd.feedback.accepted');
  assert.deepEqual(accepted, {
    type: 'learnd.feedback.accepted',
    event_id: 'f1',
    accepted: 1,
    duplicates: 0,
    rejected: [],
  });
  assert.deepEqual(s.ports.events, [{ kind: 'feedback', event, origin: 'socket' }]);
  client.send({ type: 'learnd.feedback.create', event_id: 'f2', events: [event, {}] });
  const mixed = await client.until(frame => frame.event_id === 'f2');
  assert.deepEqual(mixed.rejected, [{ index: 1, field: 'type', reason: 'is required' }]);
  s.ports.storeUp = false;
  client.send({ type: 'learnd.feedback.create', event_id: 'f3', event });
  assert.equal((await client.until(frame => frame.event_id === 'f3')).type, 'error');
  s.ports.storeUp = true;
  client.ws.close();
  const other = await new Client('respond-key').open();
  other.send({ type: 'learnd.feedback.create', event });
  assert.equal((await other.until(frame => frame.type === 'error')).status, 403);
  other.ws.close();
});

test('answers on one socket come one after the other, and end when the client leaves', async () => {
  s.ports.reset();
  const client = await new Client().open();
  for (let n = 0; n < 3; n++) client.send({ type: 'response.create', input: `q${n}`, max_output_tokens: 20 });
  for (let n = 0; n < 3_000 && client.frames.filter(frame => frame.type === 'response.incomplete').length < 3; n++)
    await sleep(10);
  const order = client.frames.filter(
    frame => frame.type === 'response.created' || frame.type === 'response.incomplete',
  );
  assert.deepEqual(
    order.map(frame => frame.type.slice(9)),
    Array(3).fill(['created', 'incomplete']).flat(),
  );
  s.ports.reset();
  client.send({ type: 'response.create', input: 'long', max_output_tokens: 900 });
  client.send({ type: 'response.create', input: 'never', max_output_tokens: 900 });
  await client.until(frame => frame.type === 'response.output_text.delta' && frame.sequence_number === 5);
  client.ws.terminate();
  for (let n = 0; n < 3_000 && s.ports.served.length === 0; n++) await sleep(10);
  await sleep(50);
  assert.deepEqual(
    s.ports.served.map(served => [served.cancelled, served.error]),
    [[true, undefined]],
  );
});

test('half a frame, a malformed one and an oversized one end that socket alone', async () => {
  const handshake = (then: (socket: ReturnType<typeof connect>) => void) =>
    new Promise<void>(resolve => {
      const socket = connect(s.serving.port, '127.0.0.1');
      socket.on('error', () => undefined);
      socket.on('close', () => resolve());
      socket.once('data', () => then(socket));
      socket.write(
        'GET /v1/responses HTTP/1.1\r\nhost: x\r\nauthorization: Bearer admin-key\r\nupgrade: websocket\r\nconnection: upgrade\r\n' +
          'sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n',
      );
    });
  await handshake(socket => {
    socket.write(Buffer.from([0x81, 0xfe, 0x01])); // the beginning of a frame, and then nothing
    setTimeout(() => socket.destroy(), 30);
  });
  await handshake(socket => socket.write(Buffer.from([0x83, 0x80, 0, 0, 0, 0]))); // a reserved opcode
  const client = await new Client().open();
  client.ws.send('x'.repeat(33 << 20));
  for (let n = 0; n < 3_000 && client.closed === undefined; n++) await sleep(10);
  assert.equal(client.closed, 1009);
  const other = await new Client().open();
  other.send({ type: 'response.create', input: 'x', max_output_tokens: 2 });
  await other.until(frame => frame.type === 'response.incomplete');
  other.ws.close();
});
