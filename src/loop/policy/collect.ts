import type { z } from 'zod';
import { laterVersion } from '../../base/errors.ts';
import type { Settings } from '../../base/settings.ts';
import { LATER } from './schema.ts';
import { nearest, type Path, type Source } from './source.ts';

export type PolicySettings = Pick<Settings, 'tasks' | 'sources'>;

/** What parsing collects; passed along so that one mistake does not hide the next. */
export interface Collector {
  readonly source: Source;
  readonly settings: PolicySettings | undefined;
  error(at: { line: number; column: number }, path: Path, message: string): void;
  warning(at: { line: number; column: number }, path: Path, message: string): void;
}

/** Reports what zod found below `base`: an unknown key at the key, anything else at the value. */
export function reportIssues(
  issues: readonly z.core.$ZodIssue[],
  base: Path,
  known: (path: Path) => readonly string[],
  to: Collector,
): void {
  for (const issue of issues) {
    const path = [...base, ...(issue.path as Array<string | number>)];
    if (issue.code === 'unrecognized_keys') {
      for (const key of issue.keys) {
        const at = to.source.key(path, key);
        if (LATER.has(key)) {
          to.error(at, [...path, key], `${laterVersion(key).message}`);
          continue;
        }
        const meant = nearest(key, known(path));
        to.error(at, [...path, key], `unknown key "${key}"${meant === undefined ? '' : `; did you mean "${meant}"?`}`);
      }
      continue;
    }
    const missing = path.length > 0 && !to.source.document.hasIn(path);
    const key = path.at(-1);
    to.error(
      to.source.value(path),
      path,
      missing ? `"${String(key)}" is missing` : `${String(key ?? 'the policy')}: ${said(issue.message)}`,
    );
  }
}

const said = (message: string): string => {
  const text = message.replace(/^Invalid input: /, '');
  return text.charAt(0).toLowerCase() + text.slice(1);
};
