import assert from 'node:assert/strict';
import test from 'node:test';
import { ManualClock, sleep } from '../../src/base/clock.ts';
import { LearndError } from '../../src/base/errors.ts';
import { labelTrie } from '../../src/learn/llama/labels.ts';
import { StreamingText } from '../../src/learn/llama/text.ts';
import { Admission } from '../../src/serve/admission.ts';
import { errorBody, statusOf } from '../../src/serve/errors.ts';
import { Exchanges } from '../../src/serve/exchanges.ts';
import { Keys } from '../../src/serve/keys.ts';
import { openApi } from '../../src/serve/openapi.ts';
import type { Exchange, Scope } from '../../src/serve/ports.ts';
import { chatRequest, parseBody, responsesRequest, toMessages, userOf } from '../../src/serve/schemas.ts';
import { fc } from '../support/properties.ts';

const code = (expected: string) => (thrown: unknown) => thrown instanceof LearndError && thrown.code === expected;

/** Tokens are bytes; what is not whole UTF-8 shows as U+FFFD, as llama.cpp has it. */
const decodeBytes = (bytes: readonly number[]): string => Buffer.from(bytes).toString('utf8');

test('streamed text: whole characters only, the same text in the end, whatever the tokens', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'grapheme', maxLength: 40 }), text => {
      const stream = new StreamingText(decodeBytes);
      const deltas = [...Buffer.from(text)].map(byte => stream.push(byte));
      deltas.push(stream.end());
      assert.equal(deltas.join(''), Buffer.from(text).toString('utf8'));
      if (!text.includes('\uFFFD')) for (const delta of deltas) assert.ok(!delta.includes('\uFFFD'));
    }),
  );
  const broken = new StreamingText(decodeBytes);
  const shown = [0xff, 0xff, 0xff, 0xff, 0x61].map(byte => broken.push(byte)).join('');
  assert.equal(shown, '\uFFFD\uFFFD\uFFFD\uFFFDa', 'invalid bytes are not held back for ever');
});

test('streamed text ends before the first stop text, however it is cut into tokens', () => {
  fc.assert(
    fc.property(
      fc.array(fc.constantFrom('a', 'b', 'ab', '\nU', 'ser', ':'), { maxLength: 20 }),
      fc.array(fc.constantFrom('\nUser:', 'ba', 'aab'), { minLength: 1, maxLength: 2 }),
      (pieces, stops) => {
        const stream = new StreamingText(ids => ids.map(id => pieces[id]).join(''), stops);
        let out = '';
        for (let id = 0; id < pieces.length && !stream.stopped; id++) out += stream.push(id);
        out += stream.end();
        const all = pieces.join('');
        // The end that completes first ends the answer: of two, the one met first while reading.
        const ends = stops.map(stop => all.indexOf(stop)).filter(at => at >= 0);
        if (ends.length === 0) assert.equal(out, all);
        else assert.ok(all.startsWith(out) && stops.every(stop => !out.includes(stop)));
        assert.equal(stream.stopped, ends.length > 0);
      },
    ),
  );
});

test('the trie of label names: one leaf a label; equal and empty names are refused', () => {
  const root = labelTrie([[1, 2], [1, 2, 3], [4]], 0);
  assert.deepEqual(root.under, [0, 1, 2]);
  assert.deepEqual([...root.children.keys()], [1, 4]);
  const deep = root.children.get(1)!.children.get(2)!;
  assert.deepEqual([...deep.children.keys()], [0, 3], 'a name that begins another ends by the terminator');
  assert.throws(() => labelTrie([[1], [1]], 0), code('invalid'));
  assert.throws(() => labelTrie([[1], []], 0), code('invalid'));
});

test('keys: scopes, admin means all, remembered a moment, kept while the store is down', async () => {
  const clock = new ManualClock(0);
  let asked = 0;
  let down = false;
  let scopes: Scope[] | undefined = ['respond'];
  const keys = new Keys(async () => {
    asked++;
    if (down) throw new Error('connection refused');
    return scopes && { scopes };
  }, clock);
  await assert.rejects(keys.check(undefined, 'respond'), code('unauthorized'));
  await assert.rejects(keys.check('Basic abc', 'respond'), code('unauthorized'));
  assert.equal(asked, 0);
  assert.ok(await keys.check('Bearer k', 'respond'));
  await assert.rejects(keys.check('bearer k', 'feedback'), code('forbidden'));
  assert.equal(asked, 1);
  clock.advance(11_000);
  down = true;
  assert.ok(await keys.check('Bearer k', 'respond'));
  await assert.rejects(keys.check('Bearer other', 'respond'), code('not_ready'));
  down = false;
  scopes = undefined;
  await assert.rejects(keys.check('Bearer k', 'respond'), code('unauthorized'), 'revoked');
  scopes = ['admin'];
  for (const scope of ['respond', 'feedback', 'admin'] as const) assert.ok(await keys.check('Bearer k', scope));
});

test('admission: bounded, says how long to wait, drains', async () => {
  const admission = new Admission(1, 1);
  const done: Array<() => void> = [];
  const work = () => admission.run(() => new Promise<void>(resolve => done.push(resolve)));
  const running = [work(), work()];
  await assert.rejects(
    work(),
    (thrown: unknown) => code('busy')(thrown) && Number((thrown as LearndError).data?.retryAfter) >= 1,
  );
  assert.equal(await admission.drain(5), false);
  const drained = admission.drain(1_000);
  for (const end of done) end();
  await Promise.all(running);
  assert.equal(await drained, true);
  await assert.rejects(work(), code('not_ready'));
});

const exchange = (id: string): Exchange => ({
  responseId: id,
  previousResponseId: undefined,
  version: 'm@1',
  api: 'responses',
  instructions: undefined,
  input: [],
  output: '',
  status: 'completed',
  incompleteReason: undefined,
  user: undefined,
  metadata: {},
  inputTokens: 0,
  outputTokens: 0,
  createdAt: 0,
  latencyMs: 0,
  firstTokenMs: undefined,
});

test('exchanges: kept in order while the store is down, each stored once when it is back', async () => {
  const stored: string[] = [];
  let down = true;
  const exchanges = new Exchanges({
    saveExchange: async ({ responseId }) => {
      if (down) throw new Error('down');
      stored.push(responseId);
    },
    loadExchange: async () => undefined,
  });
  for (const id of ['a', 'b', 'c']) await exchanges.save(exchange(id));
  assert.match(exchanges.trouble ?? '', /3 answers wait to be stored: down/);
  assert.equal((await exchanges.load('b'))?.responseId, 'b');
  down = false;
  for (let n = 0; n < 1_500 && exchanges.trouble !== undefined; n++) await sleep(20);
  await exchanges.save(exchange('d'));
  assert.deepEqual(stored, ['a', 'b', 'c', 'd']);
  assert.equal(await exchanges.load('b'), undefined, 'what the store had and has no longer is not given from memory');
  await exchanges.close();
});

test('request bodies: unknown fields by name, the deepest field at fault, OpenAI extras accepted', () => {
  const field = (body: unknown) => {
    try {
      parseBody(responsesRequest, body);
      return undefined;
    } catch (thrown) {
      return (thrown as LearndError).field;
    }
  };
  assert.equal(
    field({ input: 'x', tools: [], parallel_tool_calls: true, prompt_cache_key: 'k', stream_options: null }),
    undefined,
  );
  assert.equal(field({ input: 7 }), 'input');
  assert.equal(field({ input: [{ role: 'robot', content: 'x' }] }), 'input.0.role');
  assert.equal(field({ input: 'x', metadata: { user: 5 } }), 'metadata.user');
  assert.equal(field({ input: 'x', ' ': 1 }), ' ');
  const request = parseBody(chatRequest, {
    messages: [
      { role: 'developer', content: 'be kind' },
      {
        role: 'user',
        content: [
          { type: 'text', text: 'a' },
          { type: 'text', text: 'b' },
        ],
      },
    ],
    user: 'u',
    safety_identifier: 's',
    metadata: { user: 'm' },
  });
  assert.deepEqual(toMessages(request.messages), [
    { role: 'system', content: 'be kind' },
    { role: 'user', content: 'ab' },
  ]);
  assert.equal(userOf(request), 'm');
});

test('errors: status and body from the code; an internal fault shows nothing of itself', () => {
  const secret = errorBody(new Error('password is hunter2'));
  assert.ok(!JSON.stringify(secret).includes('hunter2'));
  assert.equal(secret.type, 'server_error');
  const refused = new LearndError('invalid', 'no', { field: 'a.b', hint: 'Do that.' });
  assert.deepEqual(errorBody(refused), {
    message: 'no (Do that.)',
    type: 'invalid_request_error',
    code: 'invalid',
    param: 'a.b',
  });
  assert.deepEqual(
    (['invalid', 'unauthorized', 'forbidden', 'not_found', 'too_large', 'busy', 'not_ready'] as const).map(c =>
      statusOf(new LearndError(c, '')),
    ),
    [400, 401, 403, 404, 413, 429, 503],
  );
});

test('the OpenAPI document holds the schemas that validate, and every reference leads somewhere', () => {
  const document = openApi({ classify_texts: 256, label_chars: 256, text_bytes: 65_536, event_bytes: 1 << 20 });
  const { schemas } = document.components as { schemas: Record<string, { properties?: Record<string, unknown> }> };
  assert.deepEqual(Object.keys(schemas.ResponsesRequest!.properties!), Object.keys(responsesRequest.shape));
  const references = [...JSON.stringify(document).matchAll(/"\$ref":"#\/components\/schemas\/([^"]+)"/g)].map(
    m => m[1]!,
  );
  assert.ok(references.length > 10);
  for (const name of references) assert.ok(name in schemas, name);
});
