import { existsSync } from 'node:fs';
import { cacheFolder } from '../base/settings.ts';

/** `--model M`: a path as it is; anything else a base by name (fetched into the cache, progress on standard error). */
export async function modelPath(model: string): Promise<string> {
  if (existsSync(model)) return model;
  const { resolveBase } = await import('../learn/model/base.ts');
  const base = await resolveBase(model, {
    cacheDir: cacheFolder(),
    onProgress: progress =>
      process.stderr.write(`${typeof progress === 'string' ? progress : JSON.stringify(progress)}\n`),
  });
  return base.path;
}
