import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { LearndError } from '../base/errors.ts';

/** Native TensorFlow is set up on first need (0.1 s when it is there); progress goes to standard error. */
export function ensureNative(): void {
  const script = join(import.meta.dirname, '..', '..', 'bin', 'setup.mjs');
  const { status } = spawnSync(process.execPath, [script], { stdio: ['ignore', 2, 2] });
  if (status !== 0)
    throw new LearndError('dependency', 'the native set-up failed', {
      hint: 'its own lines above say what is missing',
    });
}
