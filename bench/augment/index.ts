import type { BenchOptions, Row } from '../kit.ts';

export const name = 'augment';
export const title =
  'Augmentation: heads from a small slice of BANKING77 (15 intents, 5 examples each), by each operation and without, the same slices';

/**
 * `npm run bench -- augment [--seeds 8] [--each 5] [--intents 15] [--count 4] [--alpha 0.1]`: some minutes of a core. Features of the
 * whole set are kept in the folder that the bench `heads` uses. `--quick`: 2 seeds.
 * `--ways none,paraphrase,back-generation`: by SmolLM2-135M, about five minutes a slice and operation.
 * `--weights [--seeds 0,1,2] [--texts 75] [--ways none,synonym,all]`: LoRA of the language model on inquiries as text.
 */
export async function run(options: BenchOptions): Promise<readonly Row[]> {
  if (options.args.includes('--weights')) return await (await import('./weights.ts')).measureWeights(options);
  const { measure } = await import('./measure.ts');
  return await measure(options);
}
