import { isUtf8 } from 'node:buffer';
import { readFileSync, statSync } from 'node:fs';
import { LearndError } from '../../../base/errors.ts';

const MAX_JSON = 256 << 20;

/** A JSON object from a file; undefined where there is none. */
export function readJsonObject(path: string): Record<string, unknown> | undefined {
  const stat = statSync(path, { throwIfNoEntry: false });
  if (stat === undefined) return undefined;
  if (stat.size > MAX_JSON) throw damaged(path, `${stat.size} bytes is more than learnd reads`);
  const bytes = readFileSync(path);
  if (!isUtf8(bytes)) throw damaged(path, 'not UTF-8 text');
  try {
    const value: unknown = JSON.parse(bytes.toString('utf8'));
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  } catch (cause) {
    throw damaged(path, `not JSON: ${(cause as Error).message}`);
  }
  throw damaged(path, 'not a JSON object');
}

/** @param field Of the file's contents. */
export function damaged(path: string, what: string, field?: string): LearndError {
  return new LearndError('corrupt', `${path}: ${field === undefined ? '' : `${field}: `}${what}`, {
    field,
    hint: 'The file is damaged or incomplete: fetch or export the model again.',
    retriable: false,
  });
}
