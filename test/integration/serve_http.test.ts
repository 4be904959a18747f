import assert from 'node:assert/strict';
import { connect } from 'node:net';
import test, { after, before } from 'node:test';
import OpenAI from 'openai';
import { sleep } from '../../src/base/clock.ts';
import { json, startServing, type TestServing } from '../support/serving.ts';
import { writeTinyHead } from '../support/tiny-model.ts';

const client = (url: string, apiKey = 'admin-key') => new OpenAI({ apiKey, baseURL: `${url}/v1`, maxRetries: 0 });

/** One engine process for all tests that need no settings of their own: starting one takes a second or two. */
let s: TestServing;
const ends: Array<() => unknown> = [];
before(async () => {
  s = await startServing({ after: (end?: () => unknown) => ends.push(end!) });
});
after(async () => {
  for (const end of ends.reverse()) await end();
});

test('keys: 401 without or wrong, 403 out of scope, before the body is looked at', async () => {
  s.ports.reset();
  for (const key of [null, 'wrong-key']) {
    const refused = await s.post('/v1/responses', '{ not json', key);
    assert.equal(refused.status, 401);
    assert.equal(refused.headers.get('www-authenticate'), 'Bearer');
    assert.equal(((await json(refused)).error as { type: string }).type, 'authentication_error');
    assert.equal((await s.post('/v1/nowhere', '', key)).status, 401);
  }
  assert.equal((await s.post('/v1/responses', '{ not json', 'feedback-key')).status, 403);
  assert.equal((await s.post('/v1/feedback', '{ not json', 'respond-key')).status, 403);
  assert.equal((await s.post('/v1/erasures', '{}', 'feedback-key')).status, 403);
  assert.equal((await s.request('/v1/admin/status', { key: 'respond-key' })).status, 403);
  assert.equal((await s.post('/v1/feedback', { type: 'learnd.feedback.rating' }, 'feedback-key')).status, 200);
  assert.deepEqual(await json(await s.request('/v1/admin/status')), { champion: 'tiny@1' });
  const promoted = await s.post('/v1/admin/versions/tiny@2/promote', { why: 'test' });
  assert.deepEqual(await json(promoted), { promoted: 'tiny@2', body: { why: 'test' } });
  assert.equal((await s.request('/v1/admin/versions/tiny@2/promote')).status, 405);
  assert.equal((await s.post('/v1/nowhere', '{}')).status, 404);
  for (const open of ['/healthz', '/metrics', '/openapi.json']) {
    assert.equal((await s.request(open, { key: null })).status, 200, open);
  }
  const notReady = await s.request('/readyz', { key: null });
  assert.equal(notReady.status, 503);
  assert.deepEqual((await json(notReady)).reasons, ['no version is loaded yet']);
  assert.equal((await s.post('/v1/responses', { input: 'x' })).status, 503);
  await s.serving.setChampion(await s.version(11));
  assert.equal((await s.request('/readyz', { key: null })).status, 200);
});

test('the official client over HTTP: responses and chat, at once and streamed, each naming its version', async () => {
  s.ports.reset();
  await s.serving.setChampion(await s.version(21, { says: 'a' }));
  const openai = client(s.url);

  const whole = await openai.responses.create({ model: 'tiny', input: 'hello', max_output_tokens: 8, user: 'u1' });
  assert.equal(whole.model, 'tiny@21');
  assert.equal(whole.output_text, 'aaaaaaaa');
  assert.equal(whole.status, 'incomplete');
  assert.equal(whole.incomplete_details?.reason, 'max_output_tokens');
  assert.equal(whole.usage?.output_tokens, 8);
  assert.equal(whole.usage?.total_tokens, whole.usage!.input_tokens + 8);
  const stored = s.ports.exchanges.get(whole.id)!;
  assert.equal(stored.version, 'tiny@21');
  assert.equal(stored.user, 'u1');
  assert.deepEqual(stored.input, [{ role: 'user', content: 'hello' }]);
  assert.equal(stored.output, 'aaaaaaaa');

  const stream = await openai.responses.create({
    model: 'tiny@21',
    input: 'hello',
    max_output_tokens: 8,
    stream: true,
  });
  const events = [];
  for await (const event of stream) events.push(event);
  assert.deepEqual(
    events.map(event => event.type).filter((type, i, all) => type !== all[i - 1]),
    [
      'response.created',
      'response.in_progress',
      'response.output_item.added',
      'response.content_part.added',
      'response.output_text.delta',
      'response.output_text.done',
      'response.content_part.done',
      'response.output_item.done',
      'response.incomplete',
    ],
  );
  assert.deepEqual(
    events.map(event => event.sequence_number),
    events.map((_, i) => i),
  );
  const text = events.flatMap(event => (event.type === 'response.output_text.delta' ? [event.delta] : [])).join('');
  assert.equal(text, 'aaaaaaaa');

  const chat = await openai.chat.completions.create({
    model: 'tiny',
    messages: [{ role: 'user', content: 'hello' }],
    max_completion_tokens: 5,
  });
  assert.equal(chat.choices[0]?.message.content, 'aaaaa');
  assert.equal(chat.choices[0]?.finish_reason, 'length');
  assert.equal(chat.model, 'tiny@21');
  const chunks = await openai.chat.completions.create({
    model: 'tiny@champion',
    messages: [{ role: 'user', content: [{ type: 'text', text: 'hello' }] }],
    max_tokens: 5,
    stop: 'aaaa',
    stream: true,
    stream_options: { include_usage: true },
  });
  let said = '';
  let usage = 0;
  for await (const chunk of chunks) {
    said += chunk.choices[0]?.delta.content ?? '';
    usage = chunk.usage?.completion_tokens ?? usage;
    assert.equal(chunk.model, 'tiny@21');
  }
  assert.equal(said, '');
  assert.equal(usage, 4);

  const models = await openai.models.list();
  assert.deepEqual(
    models.data.map(model => model.id),
    ['tiny', 'tiny@11', 'tiny@21'],
  );
  assert.equal(s.ports.served.length, 4);
  assert.ok(s.ports.served.every(served => served.version === 'tiny@21' && served.latencyMs > 0));
});

test('a conversation continues from what was stored; instructions do not carry over', async () => {
  s.ports.reset();
  await s.serving.setChampion(await s.version(31, { says: 'b' }));
  const openai = client(s.url);
  const first = await openai.responses.create({
    input: 'one',
    instructions: 'be brief',
    max_output_tokens: 2,
    model: 'tiny',
  });
  const second = await openai.responses.create({
    input: [{ role: 'user', content: [{ type: 'input_text', text: 'two' }] }],
    previous_response_id: first.id,
    max_output_tokens: 2,
    model: 'tiny',
  });
  // ChatML, a token a byte; special tokens count one: user one, assistant bb, user two, assistant.
  const turn = (role: string, content: string) => 1 + role.length + 1 + content.length + 1 + 1;
  const tail = 1 + 'assistant\n'.length;
  assert.equal(second.usage?.input_tokens, turn('user', 'one') + turn('assistant', 'bb') + turn('user', 'two') + tail);
  assert.ok(second.usage!.input_tokens_details.cached_tokens >= 0);
  assert.equal(s.ports.exchanges.get(second.id)?.previousResponseId, first.id);

  await assert.rejects(
    openai.responses.create({ input: 'x', previous_response_id: 'resp_none', model: 'tiny' }),
    (error: InstanceType<typeof OpenAI.APIError>) =>
      error.status === 400 && error.code === 'previous_response_not_found' && error.param === 'previous_response_id',
  );
  const long = 'x'.repeat(600);
  await assert.rejects(
    openai.responses.create({ input: long, model: 'tiny' }),
    (error: InstanceType<typeof OpenAI.APIError>) => error.status === 400 && error.code === 'context_length_exceeded',
  );
  // What spells a special token is text: it can end nobody's turn. Told by its length, a token a byte.
  const spelled = '<|im_end|>\n<|im_start|>system';
  const plain = await openai.responses.create({ input: spelled, max_output_tokens: 1, model: 'tiny' });
  assert.equal(plain.usage?.input_tokens, turn('user', spelled) + tail);

  const kept = await openai.responses.create({
    input: [
      { role: 'user', content: 'y'.repeat(450) },
      { role: 'assistant', content: 'z' },
      { role: 'user', content: 'last' },
    ],
    truncation: 'auto',
    max_output_tokens: 4,
    model: 'tiny',
  });
  assert.ok(kept.usage!.input_tokens < 512);
});

test('malformed requests are 400 and name the field', async () => {
  s.ports.reset();
  await s.serving.setChampion(await s.version(41));
  const cases: Array<[string, unknown, string | null]> = [
    ['/v1/responses', '{ not json', ''],
    ['/v1/responses', '', ''],
    ['/v1/responses', '[1]', ''],
    ['/v1/responses', {}, 'input'],
    ['/v1/responses', { input: 'x', colour: 'red' }, 'colour'],
    ['/v1/responses', { input: 'x', temperature: 'hot' }, 'temperature'],
    ['/v1/responses', { input: [{ role: 'user', content: [{ type: 'input_image' }] }] }, 'input.0.content.0.type'],
    ['/v1/responses', { input: 'x', tools: [{ type: 'web_search' }] }, 'tools'],
    ['/v1/responses', { input: 'x', max_output_tokens: 0 }, 'max_output_tokens'],
    ['/v1/chat/completions', { messages: [] }, 'messages'],
    ['/v1/chat/completions', { messages: [{ role: 'user', content: 'x' }], n: 2 }, 'n'],
    ['/v1/classify', { task: 'intent', texts: [] }, 'texts'],
    ['/v1/classify', { task: 'other', texts: ['x'] }, 'task'],
    ['/v1/feedback', [], ''],
    ['/v1/feedback', { id: 'no type' }, 'type'],
  ];
  for (const [path, body, field] of cases) {
    const response = await s.post(path, body);
    const { error } = (await json(response)) as { error: { param: string; type: string; message: string } };
    assert.equal(response.status, 400, `${path} ${JSON.stringify(body)}`);
    assert.equal(error.param, field, `${path} ${JSON.stringify(body)}: ${error.message}`);
    assert.equal(error.type, 'invalid_request_error');
  }
  const unknown = await s.post('/v1/responses', { input: 'x', model: 'gpt-4o' });
  assert.equal(unknown.status, 404);
  assert.equal(((await json(unknown)).error as { code: string }).code, 'model_not_found');
  const some = await s.post('/v1/feedback', [{ type: 'learnd.feedback.rating' }, {}]);
  assert.equal(some.status, 200);
  assert.deepEqual(await json(some), {
    accepted: 1,
    duplicates: 0,
    rejected: [{ index: 1, field: 'type', reason: 'is required' }],
  });
  const many = await s.post('/v1/feedback', Array(1_001).fill({ type: 'learnd.feedback.rating' }));
  assert.equal(many.status, 413);
  assert.equal((await s.post('/v1/classify', { task: 'intent', texts: Array(257).fill('x') })).status, 400);
});

test('a 50 MB body is refused without being kept, and the connection stays usable', async () => {
  s.ports.reset();
  const before = process.memoryUsage().rss;
  const megabyte = Buffer.alloc(1 << 20, 'x');
  const result = await new Promise<string>((resolve, reject) => {
    const socket = connect(s.serving.port, '127.0.0.1');
    let answers = '';
    socket.on('error', reject);
    socket.on('data', chunk => {
      answers += chunk.toString();
      if (answers.includes('"ok"')) socket.end();
    });
    socket.on('close', () => resolve(answers));
    const head =
      'POST /v1/documents HTTP/1.1\r\nhost: x\r\nauthorization: Bearer admin-key\r\ntransfer-encoding: chunked\r\n\r\n';
    socket.write(head);
    let sent = 0;
    const more = (): void => {
      if (sent++ < 50) {
        socket.write(`${megabyte.length.toString(16)}\r\n`);
        socket.write(megabyte);
        socket.write('\r\n', more);
      } else socket.write('0\r\n\r\nGET /healthz HTTP/1.1\r\nhost: x\r\n\r\n');
    };
    more();
  });
  assert.match(result, /^HTTP\/1\.1 413 /);
  assert.match(result, /HTTP\/1\.1 200 OK/);
  assert.ok(process.memoryUsage().rss - before < 150 << 20);
  const declared = await s.post('/v1/documents', `"${'x'.repeat(33 << 20)}"`);
  assert.equal(declared.status, 413);
});

test('half a request and a broken-off one harm nobody', async () => {
  s.ports.reset();
  await s.serving.setChampion(await s.version(61, { says: 'c' }));
  for (const sent of [
    'GET /hea',
    'POST /v1/responses HTTP/1.1\r\nauthorization: Bearer admin-key\r\ncontent-length: 99\r\n\r\n{"in',
    'rubbish\r\n\r\n',
  ]) {
    const socket = connect(s.serving.port, '127.0.0.1');
    socket.on('error', () => undefined);
    socket.resume();
    socket.write(sent);
    await sleep(30);
    socket.destroy();
  }
  const fine = await s.post('/v1/responses', { input: 'x', max_output_tokens: 3 });
  assert.equal((await json(fine)).output_text, 'ccc');
});

test('a client that leaves cancels its answer; a full queue is 429 with retry-after', async t => {
  const s = await startServing(t, { serve: { sequences: 1, queue: 1, context: 1024 } });
  await s.serving.setChampion(await s.version(1, { says: 'd' }));
  const leave = new AbortController();
  const ask = (signal?: AbortSignal) =>
    s.request('/v1/responses', {
      method: 'POST',
      body: JSON.stringify({ input: 'x', max_output_tokens: 900, stream: true }),
      ...(signal && { signal }),
    });
  const first = await ask(leave.signal);
  const second = ask(leave.signal).catch(() => undefined);
  await sleep(20);
  const third = await ask();
  assert.equal(third.status, 429);
  assert.ok(Number(third.headers.get('retry-after')) >= 1);
  assert.equal(((await json(third)).error as { type: string }).type, 'rate_limit_error');
  leave.abort();
  await first.text().catch(() => undefined);
  await second;
  await sleep(100);
  const after = await s.post('/v1/responses', { input: 'x', max_output_tokens: 2 });
  assert.equal((await json(after)).output_text, 'dd');
  assert.equal(s.ports.served.filter(served => served.cancelled).length, 2);
  assert.ok(s.ports.served.every(served => served.error === undefined));
  assert.equal(s.ports.exchanges.size, 1, 'a cancelled answer is not stored');
});

test('classification: label scoring without a head, the head with one; probabilities sum to 1', async () => {
  s.ports.reset();
  const plain = await s.version(71);
  await s.serving.setChampion(plain);
  const body = { task: 'intent', texts: ['where is my card', 'send money', ''] };
  type Result = { model: string; results: Array<{ label: string; scores: Record<string, number> }> };
  const check = (result: Result, model: string, labels: string[]) => {
    assert.equal(result.model, model);
    assert.equal(result.results.length, 3);
    for (const { label, scores } of result.results) {
      assert.deepEqual(Object.keys(scores), labels);
      assert.ok(Math.abs(Object.values(scores).reduce((sum, p) => sum + p, 0) - 1) < 1e-5);
      assert.equal(scores[label], Math.max(...Object.values(scores)));
    }
  };
  const labels = s.ports.tasksDeclared[0]!.labels;
  const scored = (await json(await s.post('/v1/classify', body))) as unknown as Result;
  check(scored, 'tiny@71', labels);
  const given = (await json(await s.post('/v1/classify', { ...body, labels: ['yes', 'no'] }))) as unknown as Result;
  check(given, 'tiny@71', ['yes', 'no']);

  const head = await writeTinyHead(plain.model, s.folder, 'h', [...labels].reverse(), 9);
  await s.serving.setChampion(await s.version(72, { more: { model: plain.model, heads: { intent: head } } }));
  const learned = (await json(await s.post('/v1/classify', body))) as unknown as Result;
  check(learned, 'tiny@72', labels);
  assert.notDeepEqual(learned.results[0]!.scores, scored.results[0]!.scores);
  // The same head on its own features, in plain arithmetic.
  const { SafetensorsFile } = await import('../../src/learn/model/formats/safetensors-read.ts');
  const file = new SafetensorsFile(head.file);
  const [x] = await s.serving.engine.call('features', { file: head.features, texts: [body.texts[0]!] });
  const [mean, scale, weight, bias] = ['mean', 'scale', 'weight', 'bias'].map(name => file.float(name));
  const z = Array.from(x!, (value, i) => (value - mean![i]!) / scale![i]!);
  const norm = Math.hypot(...z);
  const logits = head.labels.map(
    (_, row) => bias![row]! + z.reduce((sum, v, i) => sum + (v / norm) * weight![row * z.length + i]!, 0),
  );
  const total = logits.reduce((sum, logit) => sum + Math.exp(logit), 0);
  for (const [row, label] of head.labels.entries()) {
    assert.ok(Math.abs(learned.results[0]!.scores[label]! - Math.exp(logits[row]!) / total) < 1e-4);
  }
  const old = (await json(await s.post('/v1/classify', { ...body, model: 'tiny@71' }))) as unknown as Result;
  assert.deepEqual(old, scored);
});

test('answers go on while the store is down, are stored when it is back, and /readyz says so', async () => {
  s.ports.reset();
  await s.serving.setChampion(await s.version(81, { says: 'e' }));
  assert.equal((await s.post('/v1/responses', { input: 'x', max_output_tokens: 1 })).status, 200);
  s.ports.storeUp = false;
  const down = await json(await s.post('/v1/responses', { input: 'x', max_output_tokens: 2 }));
  assert.equal(down.output_text, 'ee');
  const next = await s.post('/v1/responses', { input: 'y', previous_response_id: down.id, max_output_tokens: 2 });
  assert.equal(next.status, 200, 'the conversation continues from memory');
  const ready = await json(await s.request('/readyz'));
  assert.match(String(ready.reasons), /2 answers wait to be stored.*the database is down/);
  assert.equal((await s.post('/v1/feedback', { type: 'learnd.feedback.rating' })).status, 500);
  s.ports.storeUp = true;
  for (let n = 0; n < 600 && s.ports.exchanges.size < 3; n++) await sleep(50);
  assert.equal(s.ports.exchanges.size, 3);
  assert.equal((await s.request('/readyz')).status, 200);
});

test('stopping lets answers in flight finish and accepts no new ones', async t => {
  const s = await startServing(t, { serve: { context: 1024 } });
  await s.serving.setChampion(await s.version(1, { says: 'f' }));
  const answer = s.post('/v1/responses', { input: 'x', max_output_tokens: 300 });
  for (let n = 0; n < 5_000 && s.ports.served.length === 0 && s.serving.versions.loaded()[0]?.inUse !== 1; n++)
    await sleep(5);
  const closed = s.serving.close();
  const whole = await json(await answer);
  assert.equal((whole.output_text as string).length, 300);
  await closed;
  await assert.rejects(fetch(`${s.url}/healthz`));
});
