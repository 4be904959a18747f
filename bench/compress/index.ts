import type { BenchOptions, Row } from '../kit.ts';

export const name = 'compress';
export const title =
  'Compression: SmolLM2-135M cut to 68% of its parameters by several ways, each recovered by the same short distillation; perplexity and F1';

/**
 * `npm run bench -- compress [--ways 'flap;magnitude'] [--recover 'flap;magnitude'] [--steps 40] [--folder DIR]`: a minute of a core a
 * way, some fifteen with recovery. What was measured is kept in the folder and not measured again. `-- compress --speed MODEL
 * MODEL …` times files through llama.cpp in turns (on an idle machine). `-- compress --charged [--epsilons 8,2] [--units 1000]`:
 * calibration on private inquiries beside the same text as public. `--quick`: 4 steps.
 */
export async function run(options: BenchOptions): Promise<readonly Row[]> {
  if (options.args[0] === '--speed') {
    const { speeds } = await import('./speed.ts');
    return await speeds(options.args.slice(1), options);
  }
  if (options.args[0] === '--charged') {
    const { charged } = await import('./charged.ts');
    return await charged({ ...options, args: options.args.slice(1) });
  }
  const { measure } = await import('./measure.ts');
  return await measure(options);
}
