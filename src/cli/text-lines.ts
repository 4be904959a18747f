import { isUtf8 } from 'node:buffer';
import { readFileSync } from 'node:fs';
import { invalid } from '../base/errors.ts';

/** Where bytes stop being UTF-8: decoded and encoded again they differ there first. */
function firstInvalid(bytes: Buffer): number {
  const again = Buffer.from(bytes.toString('utf8'));
  let at = 0;
  while (at < bytes.length && bytes[at] === again[at]) at++;
  return at;
}

/** @throws LearndError('invalid') naming the byte where the file is not UTF-8 */
export function utf8Text(file: string): string {
  let bytes: Buffer;
  try {
    bytes = readFileSync(file);
  } catch (cause) {
    throw invalid('file', `cannot read ${file}: ${(cause as Error).message}`, { cause });
  }
  if (!isUtf8(bytes)) {
    const at = firstInvalid(bytes);
    const line = bytes.subarray(0, at).reduce((n, byte) => (byte === 10 ? n + 1 : n), 1);
    throw invalid('file', `${file} is not UTF-8 text: byte ${at}, in line ${line}`, {
      hint: 'Save it as UTF-8, for instance: iconv -f latin1 -t utf-8.',
      data: { offset: at },
    });
  }
  return new TextDecoder().decode(bytes);
}

/** The non-empty lines of a UTF-8 text file, trimmed: each is a text of its own. */
export function textLines(file: string): string[] {
  const lines = utf8Text(file)
    .split('\n')
    .map(line => line.trim())
    .filter(line => line !== '');
  if (lines.length === 0) throw invalid('file', `${file} holds no text`);
  return lines;
}
