import type { BenchOptions, Row } from '../kit.ts';

export const name = 'documents';
export const title =
  'Private documents: perplexity of SmolLM2-135M on held-out text after a histogram, after auto, and without privacy';

/**
 * `npm run bench -- documents [inquiries|manual] [--units 1000,3000,9003] [--epsilon 8,2] [--seeds 1] [--public]`. A cell without
 * steps is seconds once the histogram of its units is summed; one with steps is some minutes on a core. `--quick`: 200 units.
 */
export async function run(options: BenchOptions): Promise<readonly Row[]> {
  const { measure } = await import('./measure.ts');
  return await measure(options);
}
