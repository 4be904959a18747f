import assert from 'node:assert/strict';
import test from 'node:test';
import { silentLog } from '../../src/base/log.ts';
import { loadSettings } from '../../src/base/settings.ts';
import { lz4Decode, snappyDecode, zstdDecode } from '../../src/loop/ingest/compression.ts';
import { decode } from '../../src/loop/ingest/decode.ts';
import { clientConfig } from '../../src/loop/ingest/kafka.ts';
import { place } from '../../src/loop/ingest/placement.ts';
import type { Position } from '../../src/store/offsets.ts';
import { fc } from '../support/properties.ts';

/** What surrounds the broker, without one. The codecs are also read against the Java producer in the contract suite. */

const bytes = (...parts: (string | number[] | Buffer)[]): Buffer =>
  Buffer.concat(parts.map(part => (typeof part === 'string' ? Buffer.from(part) : Buffer.from(part))));

test('Snappy: literals, references with 1, 2 and 4 bytes, overlapping ones, framed and plain', () => {
  // length 11; literal "abcd"; copy length 7 from 4 back (1-byte form: ((7 - 4) << 2) | 1).
  const plain = bytes([11], [3 << 2], 'abcd', [(3 << 2) | 1, 4]);
  assert.equal(snappyDecode(plain).toString(), 'abcdabcdabc');
  const two = bytes([9], [2 << 2], 'xyz', [(5 << 2) | 2, 3, 0]);
  assert.equal(snappyDecode(two).toString(), 'xyzxyzxyz');
  const four = bytes([6], [0], 'a', [(4 << 2) | 3, 1, 0, 0, 0]);
  assert.equal(snappyDecode(four).toString(), 'aaaaaa');
  const long = 'q'.repeat(70);
  assert.equal(snappyDecode(bytes([70], [60 << 2, 69], long)).toString(), long);
  const framed = bytes(
    [0x82],
    'SNAPPY',
    [0, 0, 0, 0, 1, 0, 0, 0, 1],
    [0, 0, 0, plain.length],
    plain,
    [0, 0, 0, two.length],
    two,
  );
  assert.equal(snappyDecode(framed).toString(), 'abcdabcdabcxyzxyzxyz');
});

test('LZ4 frames: blocks that refer into the one before, stored blocks, long lengths', () => {
  const frame = (...blocks: Buffer[]) =>
    Buffer.concat([
      Buffer.from([0x04, 0x22, 0x4d, 0x18, 0x40, 0x40, 0x00]),
      ...blocks.flatMap(block => {
        const length = Buffer.alloc(4);
        length.writeUInt32LE(block.length);
        return [length, block];
      }),
      Buffer.alloc(4),
    ]);
  // token: 4 literals, match of 4 + 15 + 1 from 4 back; then the last literals.
  const first = bytes([0x4f], 'abcd', [4, 0, 1], [0x10], 'e');
  assert.equal(lz4Decode(frame(first)).toString(), `${'abcd'.repeat(6)}e`);
  const second = bytes([0x00, 5, 0], [0x10], '!');
  assert.equal(lz4Decode(frame(first, second)).toString(), `${'abcd'.repeat(6)}eabcd!`);
  const stored = frame(Buffer.from('plain'));
  stored.writeUInt32LE(0x80000005, 7);
  assert.equal(lz4Decode(stored).toString(), 'plain');
});

test('damaged batches are refused, whatever the bytes (fast-check)', () => {
  assert.throws(() => snappyDecode(bytes([5], [0], 'a')), /Snappy.*length/);
  assert.throws(() => snappyDecode(bytes([9], [0], 'a', [(3 << 2) | 1, 9])), /before its beginning/);
  assert.throws(() => snappyDecode(Buffer.from([0xff, 0xff, 0xff, 0xff, 0x0f])), /more than/);
  assert.throws(() => lz4Decode(Buffer.from('no frame at all')), /not an LZ4 frame/);
  const header = [0x04, 0x22, 0x4d, 0x18, 0x40, 0x40, 0x00];
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), noise => {
      for (const attempt of [
        () => snappyDecode(Buffer.from(noise)),
        () => lz4Decode(Buffer.from([...header, ...noise])),
      ]) {
        try {
          attempt();
        } catch (error) {
          assert.equal((error as { code?: string }).code, 'corrupt');
        }
      }
    }),
    { numRuns: 3000 },
  );
});

test('zstd is read where Node can, and named where it cannot', () => {
  const empty = Buffer.from('28b52ffd2000010000', 'hex');
  try {
    assert.equal(zstdDecode(empty).length, 0);
  } catch (error) {
    assert.match((error as Error).message, /zstd, which Node v20|zstd, which Node v22/);
  }
});

const record = (value: string | Buffer | null, more: { key?: string; headers?: Record<string, string> } = {}) => ({
  key: more.key === undefined ? null : Buffer.from(more.key),
  value: value === null ? null : Buffer.from(value),
  headers: more.headers ?? {},
});

test('a record becomes an event: structured or binary, the key is the user, the reason repeats nothing', () => {
  const structured = decode(record('{"type":"t","data":{"text":"x"}}', { key: 'anna' }), 1000);
  assert.deepEqual(structured, { ok: true, binary: false, event: { type: 't', data: { text: 'x', user: 'anna' } } });
  const named = decode(record('{"type":"t","data":{"user":"bert"}}', { key: 'anna' }), 1000);
  assert.ok(named.ok && (named.event as { data: { user: string } }).data.user === 'bert');
  const binary = decode(
    record('{"text":"x"}', { headers: { ce_type: 't', ce_id: '1', traceparent: 'tp', other: 'x' } }),
    1000,
  );
  assert.deepEqual(binary, {
    ok: true,
    binary: true,
    event: { type: 't', id: '1', data: { text: 'x' }, traceparent: 'tp' },
  });
  for (const [value, reason] of [
    [null, /empty/],
    ['', /empty/],
    ['secret {', /not JSON$/],
    ['[]', /JSON object/],
    ['7', /JSON object/],
    [Buffer.from([0xc3, 0x28]), /UTF-8/],
    ['x'.repeat(1001), /1001 bytes, the limit is 1000/],
  ] as const) {
    const refused = decode(record(value), 1000);
    assert.ok(!refused.ok);
    assert.match(refused.reason, reason);
    assert.doesNotMatch(refused.reason, /secret/);
  }
});

test('where to read on: Postgres, else the start; a topic made anew from its beginning; removed records passed over', async () => {
  const resets: Position[] = [];
  const at = async (
    stored: number | undefined,
    low: number,
    high: number,
    start: 'earliest' | 'latest' = 'earliest',
  ) => {
    resets.length = 0;
    const [placed] = await place(
      {
        positions: async () => (stored === undefined ? [] : [{ topic: 't', partition: 0, next: stored }]),
        reset: async position => void resets.push(position),
      },
      { t: [0] },
      { watermarks: async () => [{ partition: 0, low, high }], start, log: silentLog },
    );
    return [placed!.next, resets.map(reset => reset.next)];
  };
  assert.deepEqual(await at(undefined, 3, 9), [3, []]);
  assert.deepEqual(await at(undefined, 3, 9, 'latest'), [9, [9]]);
  assert.deepEqual(await at(5, 3, 9), [5, []]);
  assert.deepEqual(await at(9, 3, 9), [9, []]);
  assert.deepEqual(await at(1, 3, 9), [3, []]);
  assert.deepEqual(await at(20, 0, 9), [0, [0]]);
});

test('settings that cannot work are named', () => {
  const kafka = (more: Record<string, unknown>) =>
    loadSettings({ env: {}, cwd: '/nonexistent', overrides: { 'kafka.brokers': ['x:1'], ...more } }).kafka;
  assert.throws(() => clientConfig(kafka({ 'kafka.sasl_mechanism': 'plain' }), silentLog), /kafka\.sasl_username/);
  assert.throws(
    () => clientConfig(kafka({ 'kafka.tls': true, 'kafka.tls_ca': '/nonexistent/ca.pem' }), silentLog),
    /kafka\.tls_ca: cannot read \/nonexistent\/ca\.pem/,
  );
  assert.equal(clientConfig(kafka({ 'kafka.tls': true }), silentLog).ssl !== false, true);
});
