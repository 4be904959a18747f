import type { BenchOptions, Row } from '../kit.ts';

export const name = 'documents';
export const title =
  'Private documents: perplexity of SmolLM2-135M on held-out text after a histogram, after auto, and without privacy';

/**
 * `npm run bench -- documents [inquiries|manual] [--units 1000,3000,9003] [--epsilon 8,2] [--seeds 3, or 2-3]
 * [--histogram] [--tuning]`. What enters the trained blocks and the histogram's sums are kept in the cache folder: a cell without
 * steps is seconds from then on, one with steps some minutes on a core. `--tuning`: scores the lines that settings are chosen on.
 * `--quick`: 200 units. `-- documents agreement`: what `auto` knows of methods.
 */
export async function run(options: BenchOptions): Promise<readonly Row[]> {
  if (options.args[0] === 'agreement') return await (await import('./agreement.ts')).agreement(options);
  const { measure } = await import('./measure.ts');
  return await measure(options);
}
