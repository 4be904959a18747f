import type { BenchOptions, Row } from '../kit.ts';

export const name = 'forgetting';
export const title =
  'Forgetting: SmolLM2-135M after LoRA on bank inquiries, with and without public replay, KL to the base, a bound on it';

/** `npm run bench -- forgetting [--steps 40] [--private]`: some minutes a way on a core. `--quick`: 4 steps. */
export async function run(options: BenchOptions): Promise<readonly Row[]> {
  const { measure } = await import('./measure.ts');
  return await measure(options);
}
