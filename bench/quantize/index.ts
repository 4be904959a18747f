import type { BenchOptions, Row } from '../kit.ts';

export const name = 'quantize';
export const title =
  'Quantization: SmolLM2-135M-Instruct in every type learnd writes: size, perplexity with standard error and paired change, tokens/s';

/**
 * `npm run bench -- quantize [--types f32,f16,…] [--model M] [--lines 86]`: perplexities, half a minute of a core a type, kept in the
 * folder; `-- quantize --speed`: the same files through llama.cpp in turns, on an idle machine. `--quick`: few lines, one round.
 */
export async function run(options: BenchOptions): Promise<readonly Row[]> {
  const { measure } = await import('./measure.ts');
  return await measure(options);
}
