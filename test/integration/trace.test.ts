import assert from 'node:assert/strict';
import { createServer, type IncomingMessage } from 'node:http';
import type { AddressInfo } from 'node:net';
import test from 'node:test';
import { InMemorySpanExporter } from '@opentelemetry/sdk-trace-node';
import { silentLog } from '../../src/base/log.ts';
import { loadSettings } from '../../src/base/settings.ts';
import { meter, startTelemetry } from '../../src/base/telemetry.ts';
import { afterRound } from '../../src/loop/after-round.ts';
import { ingest } from '../../src/loop/ingest/ingest.ts';
import { ServingStats } from '../../src/loop/monitor/serving.ts';
import { getRound, insertRound } from '../../src/store/rounds.ts';
import { eventually } from '../support/daemon.ts';
import { testDatabase } from '../support/database.ts';

const TRACE = '4bf92f3577b34da6a3ce929d0e0e4736';
const PARENT = `00-${TRACE}-00f067aa0ba902b7-01`;

const bodyOf = async (request: IncomingMessage): Promise<string> => {
  let text = '';
  for await (const chunk of request) text += chunk;
  return text;
};

test('one trace runs from a feedback event to the round that learned it; metrics are Prometheus text; notify is delivered', async t => {
  const exporter = new InMemorySpanExporter();
  const telemetry = startTelemetry({ service: 'learnd-test', spanExporter: exporter });
  t.after(() => telemetry.close());
  const notified: string[] = [];
  const receiver = createServer(async (request, response) => {
    notified.push(await bodyOf(request));
    response.end();
  });
  await new Promise<void>(listening => receiver.listen(0, '127.0.0.1', listening));
  t.after(() => receiver.close());
  const url = `http://127.0.0.1:${(receiver.address() as AddressInfo).port}/hook`;

  const db = await testDatabase(t);
  const settings = loadSettings({ env: {}, cwd: '/', overrides: { tasks: [{ name: 'intent', labels: ['a', 'b'] }] } });
  const event = (id: string, traceparent: string | undefined) => ({
    specversion: '1.0',
    id,
    source: 'test',
    type: 'learnd.feedback.label',
    ...(traceparent && { traceparent }),
    data: { task: 'intent', text: `text ${id}`, label: 'a', user: `user-${id}` },
  });
  const events = [
    event('1', '00-11111111111111111111111111111111-1111111111111111-01'),
    event('2', PARENT),
    event('3', undefined),
  ];
  await ingest(db, settings, Buffer.alloc(32), events, { origin: 'http' });

  const row = await insertRound(db, {
    reason: 'test',
    actions: [{ do: 'notify', url }],
    parent: null as never,
    fence: 0,
  } as never);
  await db.query(`insert into round_rows (round, kind, row_id) select $1, 'feedback', id from feedback`, [row.id]);
  await db.query(`update rounds set state = 'published', finished_at = now() where id = $1`, [row.id]);
  const parts = {
    db,
    settings,
    log: silentLog,
    stats: new ServingStats(),
    secret: Buffer.alloc(32),
    artifacts: undefined as never,
  };
  await afterRound(parts, await getRound(db, row.id));

  const span = await eventually(
    'the span is exported',
    async () => exporter.getFinishedSpans().find(one => one.name === 'learnd.round'),
    20_000,
  );
  assert.equal(span.spanContext().traceId, TRACE);
  assert.deepEqual(
    span.links.map(link => link.context.traceId),
    ['11111111111111111111111111111111'],
  );
  assert.equal(JSON.parse(notified[0]!).state, 'published');
  meter().createCounter('learnd_test').add(2);
  assert.match(await telemetry.metricsText(), /learnd_test_total\{.*\} 2/);
});
