import { join } from 'node:path';
import { oneLine } from '../../src/base/errors.ts';
import { cacheFolder } from '../../src/base/settings.ts';
import { resolveBase } from '../../src/learn/model/base.ts';

/**
 * SmolLM2-135M-Instruct where a daemon's first start puts it, fetched if need be. Undefined, and the test skipped loudly, where it cannot
 * be had; under CI=true that fails the test.
 */
export async function smollm2(t: { skip(message: string): void }): Promise<string | undefined> {
  try {
    return (await resolveBase('smollm2-135m', { cacheDir: join(cacheFolder(), 'models') })).path;
  } catch (error) {
    if (process.env.CI === 'true') throw error;
    process.stderr.write(`\nSKIPPED: SmolLM2 cannot be had here: ${oneLine(error)}\n\n`);
    t.skip(oneLine(error));
    return undefined;
  }
}
