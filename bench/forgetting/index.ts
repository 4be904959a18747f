import type { BenchOptions, Row } from '../kit.ts';

export const name = 'forgetting';
export const title =
  'Forgetting: SmolLM2-135M (or --model FILE) after LoRA on bank inquiries, with and without public replay, KL to the base, a bound on it';

/** `npm run bench -- forgetting [--model FILE] [--steps 40] [--private] [--ways 'nothing;replay 5%']`: some minutes a way on a core,
 * seconds with a scratch model. `--quick`: 4 steps. */
export async function run(options: BenchOptions): Promise<readonly Row[]> {
  const { measure } = await import('./measure.ts');
  return await measure(options);
}
