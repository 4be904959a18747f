import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { parse } from 'yaml';
import { inquiries } from '../../examples/make_inquiries.ts';
import { run } from '../../src/cli/send.ts';

const root = join(import.meta.dirname, '../..');

test('the example inquiries are what their script makes, in labels the shipped settings declare', async () => {
  const declared = parse(readFileSync(join(root, 'config/learnd.yaml'), 'utf8')) as {
    tasks: { name: string; labels: string[] }[];
  };
  const labels = declared.tasks.find(task => task.name === 'intent')!.labels;
  const events: { data: { text: string; label: string; user: string } }[] = [];
  const client = {
    post: async (_path: string, body?: unknown) => {
      events.push(...(body as typeof events));
      return { accepted: (body as unknown[]).length, duplicates: 0, rejected: [] };
    },
  };
  const options = { type: 'label', task: 'intent', text: 'text', label: 'label', user: 'user' };
  const { sent } = await run({ files: [join(root, 'examples/inquiries.csv')], ...options }, client);
  assert.equal(sent, 320);
  assert.deepEqual(
    events.map(({ data: { text, label, user } }) => ({ text, label, user })),
    inquiries(),
  );
  for (const label of labels) assert.equal(events.filter(event => event.data.label === label).length, 40, label);
  assert.equal(new Set(events.map(event => event.data.user)).size, 64);
});

test('the example documents are sent as documents', async () => {
  const folder = join(root, 'examples/documents');
  const files = readdirSync(folder).map(name => join(folder, name));
  const paths: string[] = [];
  const client = {
    post: async (path: string, body?: unknown) => {
      paths.push(path);
      return { accepted: (body as unknown[]).length, duplicates: 0, rejected: [] };
    },
  };
  assert.deepEqual(await run({ files, type: 'document' }, client), { sent: files.length });
  assert.deepEqual(paths, ['/v1/documents']);
});
