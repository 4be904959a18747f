import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import test from 'node:test';
import { smollm2 } from '../support/smollm.ts';

test('SmolLM2: reading the GGUF takes at most 1.3 times its float32 weights', { timeout: 60_000 }, async t => {
  const path = await smollm2(t);
  if (path === undefined) return;
  const script = join(import.meta.dirname, '../support/load-memory.ts');
  const out = execFileSync(process.execPath, ['--import', 'tsx', script, path], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  const { weights, taken } = JSON.parse(out.trim().split('\n').at(-1)!) as { weights: number; taken: number };
  assert.equal(weights, 4 * 134_515_008);
  t.diagnostic(`peak ${Math.round(taken / 1e6)} MB for ${Math.round(weights / 1e6)} MB of weights`);
  assert.ok(taken <= 1.3 * weights, `${taken} of ${weights}: ${(taken / weights).toFixed(3)}`);
});
