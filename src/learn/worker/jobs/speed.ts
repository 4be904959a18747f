import { openGguf } from '../../llama/index.ts';
import type { JobContext } from '../serve.ts';
import type { Jobs } from '../types.ts';

const PROMPT = 'Please write a long and varied story about a lighthouse, a storm, and the people who lived through it.';
const RUNS = 3;

/**
 * Decoding speed of a version as llama.cpp serves it: one sequence, one thread, greedy, the best of three runs of `tokens`
 * tokens. Tokens by this process's CPU seconds, which on an idle core are seconds: the worker runs at the lowest priority, so wall time
 * measures who else is busy (16.9 tokens/s for a model and for one with 36% fewer parameters, at a load of 13 on two cores).
 */
export async function speed(input: Jobs['speed']['input'], context: JobContext): Promise<Jobs['speed']['result']> {
  const { files, tokens } = input;
  const model = await openGguf(files.model);
  try {
    const generator = await model.createGenerator({
      sequences: 1,
      contextSize: Math.min(model.contextLength, tokens + 64),
      threads: 1,
      ...(files.adapter === undefined ? {} : { adapter: files.adapter }),
    });
    const timed = async (maxTokens: number) => {
      const start = process.cpuUsage();
      const { tokens: made } = await generator.generate({
        tokens: prompt,
        maxTokens,
        temperature: 0,
        signal: context.signal,
        // An answer that ends early would measure nothing.
        ...(model.eosId === undefined ? {} : { logitBias: [[model.eosId, -1000]] }),
      });
      const { user, system } = process.cpuUsage(start);
      return { made: made.length, seconds: (user + system) / 1e6 };
    };
    const prompt = model.tokenize(PROMPT).slice(0, 32);
    // Evaluates the prompt, which stays in the sequence's cache: the runs after it only decode.
    const first = await timed(1);
    let best = 0;
    for (let run = 1; run <= RUNS; run++) {
      await context.breathe();
      const { made, seconds } = await timed(tokens);
      best = Math.max(best, made / seconds);
      context.progress({ stage: 'speed', done: run, total: RUNS });
    }
    await generator.dispose();
    return { tokensPerSecond: best, promptTokensPerSecond: prompt.length / first.seconds };
  } finally {
    await model.dispose();
  }
}
