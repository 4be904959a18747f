import { readFileSync } from 'node:fs';
import { parse } from 'csv-parse/sync';
import { invalid } from '../base/errors.ts';
import type { FeedbackRow } from '../learn/training/objectives/index.ts';
import { textLines } from './text-lines.ts';

/** A text with the unit whose privacy it belongs to, and its label where there is one. */
export interface TrainRow {
  readonly unit: string;
  readonly text: string;
  readonly label: string | undefined;
}

export interface Columns {
  readonly text?: string | undefined;
  readonly label?: string | undefined;
  readonly user?: string | undefined;
  /** `none`, or absent where rows are only measured on: then units mean nothing. */
  readonly epsilon?: string | number | undefined;
}

type Row = Record<string, unknown>;

/**
 * Text: a line a unit. CSV (a header row) and JSONL: columns `text`, `label`, and the one named as user; a row without user is a
 * unit of its own, with the variants of it that `learnd augment` wrote behind it.
 * @throws LearndError('invalid') naming file, row and column.
 */
export function readTrainRows(file: string, columns: Columns): TrainRow[] {
  if (kindOf(file) === 'text') {
    const asked = columns.label ?? columns.user ?? columns.text;
    if (asked !== undefined)
      throw invalid('file', `${file} is plain text: a column "${asked}" needs a file named .csv or .jsonl`);
    return textLines(file).map((text, i) => ({ unit: `line ${i + 1}`, text, label: undefined }));
  }
  const unitOf = unitsOf(file, columns);
  return records(file).map((record, i) => {
    const where = `${file}, row ${i + 1}`;
    const text = cell(record, columns.text ?? 'text', where);
    const label = columns.label === undefined ? undefined : cell(record, columns.label, where);
    return { unit: unitOf(record, i), text, label };
  });
}

/**
 * Rows of an objective. `instruct`: columns `prompt`, `ideal`. `preference`: `prompt` with `chosen` and `rejected`, or with `answer`
 * and `value` (1 or -1). `classify`: text and label.
 */
export function readFeedbackRows(
  file: string,
  objective: 'instruct' | 'preference' | 'classify',
  columns: Columns,
): FeedbackRow[] {
  if (kindOf(file) === 'text')
    throw invalid('file', `${file} is plain text: --objective ${objective} needs the columns of a .csv or .jsonl file`);
  const unitOf = unitsOf(file, columns);
  return records(file).map((record, i): FeedbackRow => {
    const where = `${file}, row ${i + 1}`;
    const unit = unitOf(record, i);
    if (objective === 'classify')
      return {
        kind: 'label',
        unit,
        text: cell(record, columns.text ?? 'text', where),
        label: cell(record, columns.label ?? 'label', where),
      };
    const messages = [{ role: 'user' as const, content: cell(record, 'prompt', where) }];
    if (objective === 'instruct') return { kind: 'correction', unit, messages, ideal: cell(record, 'ideal', where) };
    if (record.chosen !== undefined || record.value === undefined)
      return {
        kind: 'preference',
        unit,
        messages,
        chosen: cell(record, 'chosen', where),
        rejected: cell(record, 'rejected', where),
      };
    const value = Number(record.value);
    if (value !== 1 && value !== -1) throw invalid('value', `${where}: "value" must be 1 or -1`);
    return { kind: 'rating', unit, messages, answer: cell(record, 'answer', where), liked: value === 1 };
  });
}

const kindOf = (file: string): 'csv' | 'jsonl' | 'text' =>
  /\.csv$/i.test(file) ? 'csv' : /\.(jsonl|ndjson)$/i.test(file) ? 'jsonl' : 'text';

function records(file: string): Row[] {
  const found = kindOf(file) === 'csv' ? csv(file) : jsonl(file);
  if (found.length === 0) throw invalid('file', `${file} holds no rows`);
  return found;
}

/**
 * The unit of each row, asked in order. A variant is its source's: as a unit of its own it would give that source's author the influence
 * of several. It stands behind its source, which `learnd augment` numbers among the rows that are no variants.
 */
function unitsOf(file: string, { user, epsilon = 'none' }: Columns): (record: Row, i: number) => string {
  let originals = 0;
  let original = '';
  return (record, i) => {
    const where = `${file}, row ${i + 1}`;
    if (user !== undefined) return cell(record, user, where);
    const source = sourceOf(record);
    if (source === undefined) {
      originals++;
      original = `row ${i + 1}`;
    } else if (source === originals) return original;
    else if (source !== null && epsilon !== 'none')
      throw invalid(
        'user',
        `${where} is a variant of row ${source}, which does not stand before it: whose it is cannot be told`,
        {
          hint: 'Name the column of users with --user, or train on the file without variants by --augment.',
        },
      );
    return `row ${i + 1}`;
  };
}

/** Of a variant the number of its source, null where it has none; undefined of other rows. */
function sourceOf(record: Row | null): unknown {
  let found = record?.augmented;
  if (typeof found === 'string' && found.startsWith('{'))
    try {
      found = JSON.parse(found);
    } catch {
      return undefined; // A column of that name which is somebody else's.
    }
  if (typeof found !== 'object' || found === null || !('operation' in found)) return undefined;
  return 'source' in found ? found.source : undefined;
}

function cell(record: Row, column: string, where: string): string {
  const value = typeof record === 'object' && record !== null ? record[column] : undefined;
  if (value === undefined)
    throw invalid(
      column,
      `${where}: there is no column "${column}" (there are ${Object.keys(record ?? {}).join(', ')})`,
    );
  if (typeof value === 'number' || typeof value === 'boolean') return String(value);
  if (typeof value !== 'string' || value.trim() === '') throw invalid(column, `${where}: "${column}" is not a text`);
  return value.trim();
}

function csv(file: string): Row[] {
  try {
    return parse(readFileSync(file), { columns: true, bom: true, skip_empty_lines: true }) as Row[];
  } catch (cause) {
    throw invalid('file', `${file}: ${(cause as Error).message}`, { cause });
  }
}

const jsonl = (file: string): Row[] =>
  textLines(file).map((line, i) => {
    try {
      return JSON.parse(line) as Row;
    } catch (cause) {
      throw invalid('file', `${file}, line ${i + 1}: ${(cause as Error).message}`, { cause });
    }
  });
