import type { BenchOptions, Row } from '../kit.ts';

export const name = 'build';
export const title =
  'Build from nothing: BANKING77 as raw text to a compact model (tokenizer, pre-training, pruning, distillation, quantization)';

/** `npm run bench -- build [--steps 300] [--hidden 128] [--folder DIR]`: some minutes on two cores, with all evaluations. `--quick`: few steps. */
export async function run(options: BenchOptions): Promise<readonly Row[]> {
  const { measure } = await import('./measure.ts');
  return await measure(options);
}
