import assert from 'node:assert/strict';
import test from 'node:test';
import {
  dataJsonSchemas,
  envelopeJsonSchema,
  eventTypes,
  familyOf,
  parseEvent,
  UNNAMED_SOURCE,
} from '../../src/events/event.ts';
import { fc } from '../support/properties.ts';

const limits = { event_bytes: 1 << 20, label_chars: 256, text_bytes: 64 << 10 };
const parse = (input: unknown, bytes?: number) => parseEvent(input, limits, bytes);
const envelope = (type: string, data: unknown, more: object = {}) => ({
  specversion: '1.0',
  id: 'e1',
  source: 'test',
  type,
  data,
  ...more,
});

const VALID: Record<string, Record<string, unknown>> = {
  'learnd.feedback.rating': { response_id: 'resp_1', value: -1, user: 'u1', comment: 'wrong card' },
  'learnd.feedback.label': { task: 'intent', text: 'where is my card', label: 'card', user: 'u1' },
  'learnd.feedback.correction': { prompt: 'hi', ideal: 'hello', user: 'u1' },
  'learnd.feedback.preference': { prompt: 'hi', chosen: 'hello', rejected: 'what', user: 'u1' },
  'learnd.document': {
    text: 'One.\n\tTwo.\f',
    source: 'news',
    title: 'T',
    license: 'CC0-1.0',
    published_at: '2026-01-31',
  },
  'learnd.erasure': { user: 'u1', reason: 'asked' },
};

test('every type of the contract is accepted, with user, region and consent on each', () => {
  assert.deepEqual(Object.keys(VALID), [...eventTypes]);
  for (const [type, data] of Object.entries(VALID)) {
    const full = { ...data, user: 'u1', region: 'EU', consent: ['training', 'serving'] };
    const parsed = parse(envelope(type, full, { time: '2026-01-31T12:00:00.5+01:00', subject: 's', comexampleext: 1 }));
    assert.ok(parsed.ok, JSON.stringify(parsed));
    assert.deepEqual(parsed.event.data, full);
    assert.equal(parsed.event.family, familyOf(parsed.event.type));
    assert.equal(parsed.event.id, 'e1');
  }
});

test('what is wrong is named by its path, and the value is not repeated', () => {
  const label = VALID['learnd.feedback.label']!;
  const cases: [unknown, string, RegExp][] = [
    [envelope('learnd.feedback.label', { ...label, colour: 'red' }), 'data.colour', /unknown field colour/],
    [envelope('learnd.feedback.label', { task: 'intent', label: 'x' }), 'data.text', /text or response_id/],
    [envelope('learnd.feedback.label', { ...label, label: 'x'.repeat(257) }), 'data.label', /257 characters.*256/],
    [envelope('learnd.feedback.label', { ...label, label: 7 }), 'data.label', /must be a string/],
    [envelope('learnd.feedback.label', { ...label, label: '' }), 'data.label', /empty/],
    [envelope('learnd.feedback.label', { ...label, text: 'a\u0000b' }), 'data.text', /U\+0000/],
    [envelope('learnd.feedback.label', { ...label, text: 'a\ud800b' }), 'data.text', /surrogate/],
    [envelope('learnd.feedback.label', { ...label, user: 'a\nb' }), 'data.user', /U\+000A/],
    [envelope('learnd.feedback.label', { ...label, text: 'é'.repeat(32_769) }), 'data.text', /65538 bytes.*65536/],
    [envelope('learnd.feedback.label', { ...label, consent: ['ok', 3] }), 'data.consent.1', /string/],
    [envelope('learnd.feedback.label', { ...label, consent: 'training' }), 'data.consent', /list/],
    [envelope('learnd.feedback.rating', { response_id: 'r', value: 0 }), 'data.value', /-1 or 1/],
    [envelope('learnd.feedback.rating', { value: 1 }), 'data.response_id', /required/],
    [envelope('learnd.feedback.correction', { ideal: 'x' }), 'data.prompt', /prompt or response_id/],
    [envelope('learnd.document', { text: 'x' }), 'data.source', /required/],
    [envelope('learnd.document', { text: 'x', source: 's', published_at: 'May' }), 'data.published_at', /RFC 3339/],
    [envelope('learnd.erasure', {}), 'data.user', /required/],
    [envelope('learnd.feedback.like', {}), 'type', /unknown type/],
    [envelope('toString', {}), 'type', /unknown type/],
    [{ ...envelope('learnd.erasure', { user: 'u' }), specversion: '0.3' }, 'specversion', /1\.0/],
    [{ ...envelope('learnd.erasure', { user: 'u' }), id: 5 }, 'id', /string/],
    [{ ...envelope('learnd.erasure', { user: 'u' }), data_base64: 'AA==' }, 'data_base64', /not supported/],
    [{ ...envelope('learnd.erasure', { user: 'u' }), datacontenttype: 'text/xml' }, 'datacontenttype', /json/],
    [{ type: 'learnd.erasure' }, 'data', /required/],
    [{ type: 'learnd.erasure', data: [] }, 'data', /object/],
    [{ data: {} }, 'type', /required/],
    [[], '', /object/],
    [null, '', /object/],
    ['{}', '', /object/],
    [JSON.parse('{"type":"learnd.erasure","data":{"user":"u","__proto__":{}}}'), 'data.__proto__', /unknown field/],
    [envelope('learnd.erasure', { user: 'u' }, { ext: 'x'.repeat(1 << 20) }), '', /limit is 1048576/],
  ];
  for (const [input, field, reason] of cases) {
    const parsed = parse(input);
    assert.ok(!parsed.ok, JSON.stringify(input).slice(0, 200));
    assert.equal(parsed.field, field);
    assert.match(parsed.reason, reason);
    assert.doesNotMatch(parsed.reason, /where is my card/);
  }
});

test('null in an optional field means not given; in an unknown one it is still refused', () => {
  const parsed = parse(envelope('learnd.feedback.label', { task: 't', text: 'x', label: 'l', user: null }));
  assert.ok(parsed.ok);
  assert.equal(parsed.event.data.user, undefined);
  assert.ok(!parse(envelope('learnd.feedback.label', { task: 't', text: 'x', label: 'l', colour: null })).ok);
});

test('without id the content is the id: stable over key order, different for different content', () => {
  const id = (input: unknown) => {
    const parsed = parse(input);
    assert.ok(parsed.ok);
    return [parsed.event.source, parsed.event.id];
  };
  const one = id({ type: 'learnd.document', data: { text: 'a', source: 's' } });
  assert.deepEqual(one, id({ data: { source: 's', text: 'a' }, type: 'learnd.document' }));
  assert.equal(one[0], UNNAMED_SOURCE);
  assert.match(one[1]!, /^sha256:[0-9a-f]{64}$/);
  assert.notDeepEqual(one, id({ type: 'learnd.document', data: { text: 'b', source: 's' } }));
  assert.deepEqual(id({ type: 'learnd.document', id: 'x', data: { text: 'b', source: 's' } }), [UNNAMED_SOURCE, 'x']);
});

test('a malformed trace context is ignored, a good one kept', () => {
  const trace = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01';
  for (const [given, kept] of [
    [trace, trace],
    ['nonsense', undefined],
  ]) {
    const parsed = parse(envelope('learnd.erasure', { user: 'u' }, { traceparent: given }));
    assert.ok(parsed.ok);
    assert.equal(parsed.event.traceparent, kept);
  }
});

test('anything at all is answered, never thrown at (fast-check)', () => {
  const cyclic: Record<string, unknown> = envelope('learnd.erasure', { user: 'u' });
  cyclic.self = cyclic;
  assert.ok(!parse(cyclic).ok);
  const anyEvent = fc.record(
    {
      specversion: fc.oneof(fc.constant('1.0'), fc.anything()),
      id: fc.oneof(fc.string(), fc.anything()),
      source: fc.oneof(fc.string(), fc.anything()),
      type: fc.oneof(fc.constantFrom(...eventTypes), fc.string()),
      data: fc.oneof(
        fc.dictionary(
          fc.constantFrom('text', 'user', 'label', 'task', 'source', 'value', 'ideal', 'x', '__proto__'),
          fc.anything(),
        ),
        fc.anything(),
      ),
    },
    { requiredKeys: [] },
  );
  fc.assert(
    fc.property(fc.oneof(anyEvent, fc.anything(), fc.jsonValue()), input => {
      const parsed = parse(input);
      if (parsed.ok) {
        assert.ok(eventTypes.includes(parsed.event.type));
        assert.ok(parsed.event.id.length > 0 && parsed.event.source.length > 0);
      } else assert.ok(typeof parsed.field === 'string' && parsed.reason.length > 0);
    }),
    { numRuns: 2000 },
  );
});

test('a valid event survives JSON, one unknown field refuses it (fast-check)', () => {
  const words = fc
    .string({ unit: 'grapheme', minLength: 1, maxLength: 60 })
    .map(s => `w ${s.replace(/\p{Cc}|\p{Cs}/gu, '')}`);
  const event = fc.record({ task: words, text: words, label: words, user: words }, { noNullPrototype: true });
  fc.assert(
    fc.property(event, fc.string({ minLength: 1 }), (data, unknown) => {
      const first = parse(JSON.parse(JSON.stringify(envelope('learnd.feedback.label', data))));
      assert.ok(first.ok, JSON.stringify(first));
      assert.deepEqual(first.event.data, data);
      if (unknown in data || ['response_id', 'region', 'consent', '__proto__'].includes(unknown)) return;
      const second = parse(envelope('learnd.feedback.label', { ...data, [unknown]: 1 }));
      assert.ok(!second.ok && second.field.startsWith('data.'));
    }),
    { numRuns: 500 },
  );
});

test('schemas are served as JSON Schema with their bounds', () => {
  const label = dataJsonSchemas(limits)['learnd.feedback.label'] as {
    additionalProperties: boolean;
    properties: Record<string, { maxLength: number }>;
  };
  assert.equal(label.additionalProperties, false);
  assert.equal(label.properties.label!.maxLength, 256);
  assert.ok((envelopeJsonSchema() as { required: string[] }).required.includes('type'));
});
