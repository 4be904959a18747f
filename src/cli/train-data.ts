import { readFileSync } from 'node:fs';
import { parse } from 'csv-parse/sync';
import { invalid } from '../base/errors.ts';
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
}

/**
 * Text: a line a unit. CSV (a header row) and JSONL: columns `text`, `label`, and the one named as user; a row without user is a
 * unit of its own.
 * @throws LearndError('invalid') naming file, row and column.
 */
export function readTrainRows(file: string, columns: Columns): TrainRow[] {
  const kind = /\.csv$/i.test(file) ? 'csv' : /\.(jsonl|ndjson)$/i.test(file) ? 'jsonl' : 'text';
  if (kind === 'text') return textLines(file).map((text, i) => ({ unit: `line ${i + 1}`, text, label: undefined }));
  const records = kind === 'csv' ? csv(file) : jsonl(file);
  if (records.length === 0) throw invalid('file', `${file} holds no rows`);
  return records.map((record, i) => {
    const where = `${file}, row ${i + 1}`;
    const text = cell(record, columns.text ?? 'text', where);
    const user = columns.user === undefined ? undefined : cell(record, columns.user, where);
    const label = columns.label === undefined ? undefined : cell(record, columns.label, where);
    return { unit: user ?? `row ${i + 1}`, text, label };
  });
}

function cell(record: Record<string, unknown>, column: string, where: string): string {
  const value = record[column];
  if (value === undefined)
    throw invalid(column, `${where}: there is no column "${column}" (there are ${Object.keys(record).join(', ')})`);
  if (typeof value !== 'string' || value.trim() === '') throw invalid(column, `${where}: "${column}" is not a text`);
  return value.trim();
}

function csv(file: string): Record<string, unknown>[] {
  try {
    return parse(readFileSync(file), { columns: true, bom: true, skip_empty_lines: true }) as Record<string, unknown>[];
  } catch (cause) {
    throw invalid('file', `${file}: ${(cause as Error).message}`, { cause });
  }
}

const jsonl = (file: string): Record<string, unknown>[] =>
  textLines(file).map((line, i) => {
    try {
      return JSON.parse(line) as Record<string, unknown>;
    } catch (cause) {
      throw invalid('file', `${file}, line ${i + 1}: ${(cause as Error).message}`, { cause });
    }
  });
