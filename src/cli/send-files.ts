import { createHash } from 'node:crypto';
import { createReadStream, statSync } from 'node:fs';
import { basename, extname } from 'node:path';
import { createInterface } from 'node:readline';
import { Readable } from 'node:stream';
import { parse } from 'csv-parse';
import { invalid } from '../base/errors.ts';
import { eventTypes, familyOf } from '../events/event.ts';

/** From files to events: CSV and JSONL by rows, text and Markdown as one document each. */

export interface SendOptions {
  readonly type?: string | undefined;
  /** Columns; default: the name of the field, where the file has such a column. */
  readonly text?: string | undefined;
  readonly label?: string | undefined;
  readonly user?: string | undefined;
  /** The task itself, not a column. */
  readonly task?: string | undefined;
  readonly source?: string | undefined;
}

export interface Entry {
  readonly event: Record<string, unknown>;
  readonly path: string;
  /** `train.csv line 17`. */
  readonly where: string;
  /** Field of data to the column it came from. */
  readonly columns: Readonly<Record<string, string>>;
}

type Row = Record<string, unknown>;

const FIELDS: Readonly<Record<string, readonly string[]>> = {
  label: ['text', 'response_id', 'label', 'task'],
  document: ['text', 'source', 'title', 'license', 'published_at'],
  rating: ['response_id', 'value', 'comment'],
  correction: ['response_id', 'prompt', 'ideal'],
  preference: ['prompt', 'chosen', 'rejected'],
};
const EVERYWHERE = ['user', 'region', 'consent'];
const TYPES: Readonly<Record<string, string>> = Object.fromEntries(
  Object.keys(FIELDS).map(type => [type, type === 'document' ? 'learnd.document' : `learnd.feedback.${type}`]),
);
const PATHS = { feedback: '/v1/feedback', document: '/v1/documents', erasure: '/v1/erasures' } as const;

const hash = (value: unknown): string => createHash('sha256').update(JSON.stringify(value)).digest('hex').slice(0, 32);

type Format = 'csv' | 'jsonl' | 'text';

function formatOf(file: string, options: SendOptions, head: string): Format {
  const extension = extname(file).toLowerCase();
  if (['.csv', '.tsv'].includes(extension)) return 'csv';
  if (['.jsonl', '.ndjson', '.json'].includes(extension)) return 'jsonl';
  if (['.md', '.txt', '.markdown', '.text'].includes(extension)) return 'text';
  if (/^\s*\{/.test(head)) return 'jsonl';
  const asDocument = options.type === 'document' && options.text === undefined;
  return asDocument || (options.type === undefined && options.label === undefined) ? 'text' : 'csv';
}

function typeOf(file: string, options: SendOptions, format: Format): string {
  const { type } = options;
  if (type !== undefined) {
    if (!Object.hasOwn(TYPES, type))
      throw invalid('type', `--type ${type}: must be one of ${Object.keys(TYPES).join(', ')}`);
    return type;
  }
  if (format === 'text') return 'document';
  if (options.label !== undefined || options.task !== undefined) return 'label';
  throw invalid('type', `${file}: say what its rows are with --type ${Object.keys(TYPES).join('|')}`);
}

/** The first bytes, and the whole again. */
async function peek(stream: NodeJS.ReadableStream): Promise<{ head: string; whole: AsyncIterable<Buffer> }> {
  const chunks = stream[Symbol.asyncIterator]() as AsyncIterator<Buffer | string>;
  const first = await chunks.next();
  const buffer = (chunk: Buffer | string) => (typeof chunk === 'string' ? Buffer.from(chunk) : chunk);
  async function* whole() {
    if (first.done) return;
    yield buffer(first.value);
    for (;;) {
      const next = await chunks.next();
      if (next.done) return;
      yield buffer(next.value);
    }
  }
  return { head: first.done ? '' : buffer(first.value).toString('utf8', 0, 4096), whole: whole() };
}

/** @throws LearndError('invalid') for a file that cannot be read */
export async function* entries(
  file: string,
  options: SendOptions,
  stdin: NodeJS.ReadableStream,
): AsyncGenerator<Entry> {
  const name = file === '-' ? 'standard input' : file;
  if (file !== '-') {
    const stat = statSync(file, { throwIfNoEntry: false });
    if (stat === undefined) throw invalid('file', `${file}: there is no such file`);
    if (stat.isDirectory()) throw invalid('file', `${file} is a directory`, { hint: `Name its files: ${file}/*` });
  }
  try {
    const { head, whole } = await peek(file === '-' ? stdin : createReadStream(file));
    const format = formatOf(file, options, head);
    const source = `cli:${options.source ?? (file === '-' ? '-' : basename(file))}`;
    if (format === 'text') yield await textEntry(name, source, options, whole);
    else if (format === 'csv') yield* csvEntries(name, file, source, options, head, whole);
    else yield* jsonlEntries(name, source, options, whole);
  } catch (error) {
    const { code, syscall, message } = error as NodeJS.ErrnoException;
    if (syscall !== undefined) throw invalid('file', `${name} cannot be read: ${message}`, { cause: error });
    if (code?.startsWith('CSV_')) throw invalid('file', `${name}: ${message}`, { cause: error });
    throw error;
  }
}

async function textEntry(
  name: string,
  source: string,
  options: SendOptions,
  whole: AsyncIterable<Buffer>,
): Promise<Entry> {
  typeOf(name, options, 'text');
  const chunks: Buffer[] = [];
  for await (const chunk of whole) chunks.push(chunk);
  let text: string;
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(Buffer.concat(chunks));
  } catch (cause) {
    throw invalid('file', `${name} is not UTF-8 text`, { cause });
  }
  if (text.trim() === '') throw invalid('text', `${name} is empty`);
  const data = { text, source: options.source ?? 'cli' };
  return {
    event: { specversion: '1.0', id: hash(data), source, type: 'learnd.document', data },
    path: PATHS.document,
    where: name,
    columns: {},
  };
}

async function* csvEntries(
  name: string,
  file: string,
  source: string,
  options: SendOptions,
  head: string,
  whole: AsyncIterable<Buffer>,
): AsyncGenerator<Entry> {
  const type = typeOf(name, options, 'csv');
  const header = head.split('\n', 1)[0]!;
  const delimiter =
    extname(file) === '.tsv' || (header.includes('\t') && !header.includes(','))
      ? '\t'
      : header.includes(',') || !header.includes(';')
        ? ','
        : ';';
  let columns: string[] = [];
  const parser = Readable.from(whole).pipe(
    parse({
      bom: true,
      delimiter,
      info: true,
      skip_empty_lines: true,
      trim: true,
      columns: names => {
        columns = names as string[];
        return columns;
      },
    }),
  );
  for await (const { record, info } of parser as AsyncIterable<{
    record: Row;
    info: { lines: number; records: number };
  }>)
    yield rowEntry({
      type,
      record,
      number: info.records,
      where: `${name} line ${info.lines}`,
      source,
      options,
      columns,
    });
}

async function* jsonlEntries(
  name: string,
  source: string,
  options: SendOptions,
  whole: AsyncIterable<Buffer>,
): AsyncGenerator<Entry> {
  let number = 0;
  for await (const raw of createInterface({ input: Readable.from(whole), crlfDelay: Number.POSITIVE_INFINITY })) {
    number++;
    const line = number === 1 ? raw.replace(/^\ufeff/, '') : raw;
    if (line.trim() === '') continue;
    const where = `${name} line ${number}`;
    let record: Row;
    try {
      record = JSON.parse(line) as Row;
    } catch (cause) {
      throw invalid('file', `${where} is not JSON (one object a line)`, { cause });
    }
    if (typeof record !== 'object' || record === null || Array.isArray(record))
      throw invalid('file', `${where} is not a JSON object`);
    const event = eventTypes.find(type => type === record.type);
    if (event !== undefined && typeof record.data === 'object') {
      const id = record.id ?? hash([number, record.data]);
      const path = PATHS[familyOf(event)];
      yield { event: { specversion: '1.0', ...record, id, source: record.source ?? source }, path, where, columns: {} };
    } else {
      const type = typeOf(name, options, 'jsonl');
      yield rowEntry({ type, record, number, where, source, options, columns: Object.keys(record) });
    }
  }
}

function rowEntry(row: {
  type: string;
  record: Row;
  number: number;
  where: string;
  source: string;
  options: SendOptions;
  columns: readonly string[];
}): Entry {
  const { type, record, options, where } = row;
  const named: Readonly<Record<string, string | undefined>> = {
    text: options.text,
    label: options.label,
    user: options.user,
  };
  const columns: Record<string, string> = {};
  const data: Row = {};
  for (const field of [...FIELDS[type]!, ...EVERYWHERE]) {
    const column = named[field] ?? field;
    if (!row.columns.includes(column)) {
      if (named[field] === undefined) continue;
      throw invalid(field, `${where}: there is no column ${column}; there are: ${row.columns.join(', ')}`);
    }
    columns[field] = column;
    const value = record[column];
    if (value !== '' && value !== null && value !== undefined) data[field] = converted(field, value);
  }
  if (type === 'label' && options.task !== undefined) data.task = options.task;
  if (type === 'label' && data.task === undefined) throw invalid('task', `${where}: name the task with --task`);
  if (type === 'document') data.source ??= options.source ?? 'cli';
  return {
    event: { specversion: '1.0', id: hash([row.number, data]), source: row.source, type: TYPES[type]!, data },
    path: type === 'document' ? PATHS.document : PATHS.feedback,
    where,
    columns,
  };
}

/** CSV knows text only; JSONL may have the real thing. */
function converted(field: string, value: unknown): unknown {
  if (field === 'value' && typeof value === 'string') return Number(value);
  if (field === 'consent' && typeof value === 'string')
    return value
      .split(/[;,|]/)
      .map(purpose => purpose.trim())
      .filter(purpose => purpose !== '');
  return typeof value === 'number' && field !== 'value' ? String(value) : value;
}
