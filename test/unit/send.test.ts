import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import test, { after } from 'node:test';
import { LearndError } from '../../src/base/errors.ts';
import { human, run } from '../../src/cli/send.ts';
import { parseEvent } from '../../src/events/event.ts';

const folder = mkdtempSync(join(tmpdir(), 'learnd-send-'));
after(() => rmSync(folder, { recursive: true }));
const file = (name: string, content: string | Buffer): string => {
  writeFileSync(join(folder, name), content);
  return join(folder, name);
};
const limits = { event_bytes: 1 << 20, label_chars: 256, text_bytes: 64 << 10 };

type Event = { id: string; source: string; type: string; data: Record<string, unknown> };

/** Answers as the daemon does, with the real checks. */
function daemon(options: { fail?: number } = {}) {
  const posts: { path: string; events: Event[] }[] = [];
  const seen = new Set<string>();
  let failures = options.fail ?? 0;
  const said: string[] = [];
  const client = {
    post: async (path: string, body?: unknown) => {
      if (failures-- > 0) throw new LearndError('invalid', 'busy', { data: { status: 429 } });
      const events = body as Event[];
      posts.push({ path, events });
      const report = { accepted: 0, duplicates: 0, rejected: [] as { index: number; field: string; reason: string }[] };
      for (const [index, event] of events.entries()) {
        const parsed = parseEvent(event, limits);
        const key = `${event.source} ${event.id}`;
        if (!parsed.ok) report.rejected.push({ index, field: parsed.field, reason: parsed.reason });
        else if (event.data.user === 'erased') report.rejected.push({ index, field: 'user', reason: 'erased' });
        else if (seen.has(key)) report.duplicates++;
        else {
          seen.add(key);
          report.accepted++;
        }
      }
      return report;
    },
  };
  const send = (files: string[], more: object = {}, stdin?: string) =>
    run({ files, ...more }, client, {
      say: line => said.push(line),
      ...(stdin === undefined ? {} : { stdin: Readable.from([Buffer.from(stdin)]) }),
    });
  return { posts, said, send, events: () => posts.flatMap(post => post.events) };
}

const fails = async (work: Promise<unknown>, message: RegExp) =>
  assert.rejects(work, (error: LearndError) => {
    assert.ok(error instanceof LearndError, String(error));
    assert.match(error.message, message);
    return true;
  });

test('CSV: columns by option or by name, several batches, ids that stay the same', async () => {
  const rows = Array.from(
    { length: 1200 },
    (_, i) => `"where is my card, number ${i}?",card_arrival,u${i % 7},ignored`,
  );
  const csv = file('train.csv', `inquiry,category,user,other\n${rows.join('\n')}\n`);
  const d = daemon();
  const options = { type: 'label', task: 'intent', text: 'inquiry', label: 'category' };
  assert.deepEqual(await d.send([csv], options), { sent: 1200 });
  assert.deepEqual(
    d.posts.map(post => [post.path, post.events.length]),
    [
      ['/v1/feedback', 500],
      ['/v1/feedback', 500],
      ['/v1/feedback', 200],
    ],
  );
  const [first] = d.events();
  assert.equal(first!.source, 'cli:train.csv');
  assert.deepEqual(first!.data, {
    text: 'where is my card, number 0?',
    label: 'card_arrival',
    task: 'intent',
    user: 'u0',
  });
  assert.equal(new Set(d.events().map(event => event.id)).size, 1200);
  assert.deepEqual(await d.send([csv], options), { sent: 1200 });
  assert.match(d.said.join('\n'), /1200 of them had been sent before/);
  assert.equal(human({ sent: 1 }), 'sent 1 event');
});

test('CSV: quotes, line breaks, byte order mark, semicolons, tabs, empty cells', async () => {
  const d = daemon();
  await d.send([file('a.csv', '\ufefftext;label;user\n"two\nlines; and ""quotes""";card;\n')], {
    type: 'label',
    task: 't',
  });
  await d.send([file('b.tsv', 'text\tlabel\nx\ty\n')], { label: 'label', task: 't' });
  assert.deepEqual(
    d.events().map(event => event.data),
    [
      { text: 'two\nlines; and "quotes"', label: 'card', task: 't' },
      { text: 'x', label: 'y', task: 't' },
    ],
  );
});

test('an error names file, row and column, and says what is stored', async () => {
  const d = daemon();
  const long = 'x'.repeat(257);
  await fails(
    d.send([file('c.csv', `text,category\nfine,ok\nhello,${long}\n`)], { type: 'label', task: 't', label: 'category' }),
    /c\.csv line 3, column category: label is 257 characters/,
  );
  await fails(
    d.send([file('d.csv', 'text,label\nx,y\n')], { type: 'label', task: 't', text: 'question' }),
    /d\.csv line 2: there is no column question; there are: text, label/,
  );
  await fails(d.send([file('e.csv', 'text,label\nx,y\n')], { type: 'label' }), /--task/);
  await fails(d.send([file('f.csv', 'text,label\nx\n')], { type: 'label', task: 't' }), /f\.csv: .*line 2/);
  await fails(d.send([file('g.csv', 'text\nx\n')]), /--type/);
  await fails(d.send([file('g.csv', 'text\nx\n')], { type: 'letter' }), /--type letter: must be one of label/);
  await fails(
    d.send([file('h.jsonl', '{"text":"x","label":"y"}\nnot json\n')], { type: 'label', task: 't' }),
    /h\.jsonl line 2 is not JSON/,
  );
  await fails(d.send([join(folder, 'none.csv')], { type: 'label', task: 't' }), /none\.csv: there is no such file/);
  await fails(d.send([folder], { type: 'document' }), /is a directory/);
  await fails(d.send([file('i.txt', '  \n')]), /i\.txt is empty/);
  await fails(d.send([file('j.txt', Buffer.from([0x61, 0xff]))]), /j\.txt is not UTF-8/);
});

test('JSONL: rows by their keys, or whole events', async () => {
  const d = daemon();
  const lines = [
    { text: 'a', label: 'b', user: 7, consent: ['training'] },
    {
      specversion: '1.0',
      id: 'mine',
      source: 'app',
      type: 'learnd.feedback.rating',
      data: { response_id: 'r', value: 1 },
    },
    { type: 'learnd.document', data: { text: 'd', source: 'wire' } },
    { type: 'learnd.erasure', data: { user: 'anna' } },
  ];
  const path = file('events.jsonl', lines.map(line => JSON.stringify(line)).join('\n'));
  assert.deepEqual(await d.send([path], { type: 'label', task: 't' }), { sent: 4 });
  assert.deepEqual(
    d.posts.map(post => post.path),
    ['/v1/feedback', '/v1/documents', '/v1/erasures'],
  );
  const [row, rating] = d.events();
  assert.deepEqual(row!.data, { text: 'a', label: 'b', user: '7', task: 't', consent: ['training'] });
  assert.deepEqual([rating!.id, rating!.source], ['mine', 'app']);
});

test('text and Markdown: a document a file; the id is the content', async () => {
  const d = daemon();
  assert.deepEqual(
    await d.send([file('one.md', '# One\n\nText.\n'), file('two.txt', 'Two')], {
      type: 'document',
      source: 'handbook',
    }),
    { sent: 2 },
  );
  assert.deepEqual(
    d.events().map(event => [event.type, event.data]),
    [
      ['learnd.document', { text: '# One\n\nText.\n', source: 'handbook' }],
      ['learnd.document', { text: 'Two', source: 'handbook' }],
    ],
  );
  assert.deepEqual(await d.send([file('one.md', '# One\n\nText.\n')], { source: 'handbook' }), { sent: 1 });
  assert.match(d.said.join(), /sent before/);
});

test('ratings, corrections, preferences and documents by rows', async () => {
  const d = daemon();
  await d.send([file('r.csv', 'response_id,value,comment\nr1,-1,\nr2,1,good\n')], { type: 'rating' });
  await d.send([file('k.csv', 'prompt,ideal\np,i\n')], { type: 'correction' });
  await d.send([file('p.csv', 'prompt,chosen,rejected,consent\np,c,r,training;research\n')], { type: 'preference' });
  await d.send([file('n.csv', 'body,title,source\nText,T,wire\n')], { type: 'document', text: 'body' });
  assert.deepEqual(
    d.events().map(event => event.data),
    [
      { response_id: 'r1', value: -1 },
      { response_id: 'r2', value: 1, comment: 'good' },
      { prompt: 'p', ideal: 'i' },
      { prompt: 'p', chosen: 'c', rejected: 'r', consent: ['training', 'research'] },
      { text: 'Text', title: 'T', source: 'wire' },
    ],
  );
});

test('standard input: CSV, JSONL or a text; a busy daemon is waited for; erased users are told', async () => {
  const d = daemon({ fail: 2 });
  assert.deepEqual(await d.send(['-'], { type: 'label', task: 't' }, 'text,label,user\na,b,anna\nc,d,erased\n'), {
    sent: 1,
  });
  assert.match(d.said.join('\n'), /1 more belong to users who were erased/);
  assert.deepEqual(await d.send(['-'], { type: 'label', task: 't' }, '{"text":"x","label":"y"}\n'), { sent: 1 });
  assert.deepEqual(await d.send(['-'], { type: 'document' }, 'A text of its own.'), { sent: 1 });
  assert.deepEqual(
    d.events().map(event => event.source),
    ['cli:-', 'cli:-', 'cli:-', 'cli:-'],
  );
});
