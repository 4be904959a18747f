import { invalid } from '../base/errors.ts';
import { textLines } from './text-lines.ts';

export interface JsonRow {
  readonly row: Readonly<Record<string, unknown>>;
  /** Where it stands, for errors. */
  readonly at: string;
}

/** The objects of a JSONL file. */
export function jsonRows(file: string): JsonRow[] {
  return textLines(file).map((line, i) => {
    const at = `${file}, row ${i + 1}`;
    let row: unknown;
    try {
      row = JSON.parse(line);
    } catch (cause) {
      throw invalid('file', `${at} is not JSON`, { cause });
    }
    if (typeof row !== 'object' || row === null || Array.isArray(row)) {
      throw invalid('file', `${at} is not a JSON object`);
    }
    return { row: row as Record<string, unknown>, at };
  });
}
