import { readFileSync } from 'node:fs';
import { extname } from 'node:path';
import { parse } from 'csv-parse/sync';
import { invalid } from '../base/errors.ts';
import { jsonRows } from './json-rows.ts';
import { textLines } from './text-lines.ts';

/** Rows of a CSV file (with a header), a JSONL file, or of any other text: its lines under `text`. */
export function tableRows(file: string): Readonly<Record<string, unknown>>[] {
  const extension = extname(file).toLowerCase();
  if (extension === '.jsonl' || extension === '.ndjson') return jsonRows(file).map(({ row }) => row);
  if (extension !== '.csv') return textLines(file).map(text => ({ text }));
  textLines(file); // that it can be read and is text
  try {
    return parse(readFileSync(file), { columns: true, bom: true, skip_empty_lines: true }) as Record<string, unknown>[];
  } catch (cause) {
    throw invalid('file', `${file}: ${(cause as Error).message}`, { cause });
  }
}
