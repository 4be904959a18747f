import { readFileSync } from 'node:fs';
import { invalid } from '../base/errors.ts';

/** The non-empty lines of a UTF-8 text file, trimmed: each is a text of its own. */
export function textLines(file: string): string[] {
  let bytes: Buffer;
  try {
    bytes = readFileSync(file);
  } catch (cause) {
    throw invalid('file', `cannot read ${file}: ${(cause as Error).message}`, { cause });
  }
  let text: string;
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch (cause) {
    throw invalid('file', `${file} is not UTF-8 text`, { cause });
  }
  const lines = text
    .split('\n')
    .map(line => line.trim())
    .filter(line => line !== '');
  if (lines.length === 0) throw invalid('file', `${file} holds no text`);
  return lines;
}
