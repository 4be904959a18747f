import { basename } from 'node:path';
import { type Generator, type GgufModel, openGguf } from '../../src/learn/llama/index.ts';
import { type BenchOptions, median, type Row } from '../kit.ts';

const [PROMPT, ANSWER] = [256, 48];

interface Timed {
  readonly path: string;
  readonly model: GgufModel;
  readonly generator: Generator;
  readonly prefill: number[];
  readonly generate: number[];
}

/**
 * Tokens a second of each file through llama.cpp, one thread, the files in turns so that all meet the same machine: a prompt of 256
 * tokens read, then 48 written greedily (whatever they say: both counts are the same for all). Medians.
 */
export async function timed(
  paths: readonly string[],
  { quick, log }: Pick<BenchOptions, 'quick' | 'log'>,
): Promise<{ path: string; prefill: number; generate: number }[]> {
  const open: Timed[] = [];
  for (const path of paths) {
    const model = await openGguf(path);
    const generator = await model.createGenerator({ contextSize: 512, threads: 1 });
    open.push({ path, model, generator, prefill: [], generate: [] });
  }
  const rounds = quick ? 1 : 5;
  for (let round = -1; round < rounds; round++) {
    for (const one of open) {
      // Another first token each round: nothing comes out of the cache.
      const prompt = Array.from({ length: PROMPT }, (_, t) => 400 + ((t * 37 + (round + 2) * 101) % 20000));
      const started = performance.now();
      const first = await one.generator.generate({ tokens: prompt, maxTokens: 1, temperature: 0 });
      const read = performance.now() - started;
      const again = performance.now();
      const { tokens } = await one.generator.generate({
        tokens: [...prompt, first.tokens[0] ?? 400],
        ...{ maxTokens: ANSWER, temperature: 0 },
        logitBias: [...ends(one.model)],
      });
      const wrote = performance.now() - again;
      if (round < 0) continue;
      one.prefill.push((1000 * PROMPT) / read);
      one.generate.push((1000 * tokens.length) / wrote);
    }
    if (round >= 0) log(`round ${round + 1} of ${rounds}`);
  }
  for (const { generator, model } of open) {
    await generator.dispose();
    await model.dispose();
  }
  return open.map(({ path, prefill, generate }) => ({ path, prefill: median(prefill), generate: median(generate) }));
}

/** An answer must not end early. */
function ends(model: GgufModel): [number, number][] {
  return Array.from({ length: 64 }, (_, token) => token)
    .filter(token => model.isEndOfGeneration(token))
    .map(token => [token, -100]);
}

export async function speeds(paths: readonly string[], options: BenchOptions): Promise<Row[]> {
  const found = await timed(paths, options);
  return found.flatMap(({ path, prefill, generate }) => [
    { what: `${basename(path)}: written`, value: generate, unit: 'tokens/s' },
    { what: `${basename(path)}: read`, value: prefill, unit: 'tokens/s' },
  ]);
}
