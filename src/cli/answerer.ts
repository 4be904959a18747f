import { LearndError, oneLine } from '../base/errors.ts';
import type { Timed } from '../learn/metrics/timing.ts';
import { modelPath } from './model-path.ts';

/** Whoever answers prompts for a measurement: a model file through llama.cpp, or a running daemon. */
export interface Answerer {
  readonly name: string;
  /** @throws LearndError when there is no answer */
  ask(prompt: string, maxTokens: number): Promise<{ text: string; timed: Extract<Timed, { ok: true }> }>;
  close(): Promise<void>;
}

export interface AnswererOptions {
  /** A path or a base's name; with `data`, a name the daemon knows (`name@N`). */
  readonly model?: string;
  /** A daemon's data directory. */
  readonly data?: string;
}

export function openAnswerer(options: AnswererOptions): Promise<Answerer> {
  if (options.data !== undefined) return daemonAnswerer(options.data, options.model);
  if (options.model !== undefined) return fileAnswerer(options.model);
  throw new LearndError('invalid', 'say whom to ask: --model FILE, or --data DIR of a running daemon', {
    field: 'model',
  });
}

/** Greedy answers of a model file, one at a time, in the chat format it was taught. */
async function fileAnswerer(model: string): Promise<Answerer> {
  const path = await modelPath(model);
  const { openModel } = await import('../learn/model/open.ts');
  const { renderChat } = await import('../learn/model/chat.ts');
  const { openGguf } = await import('../learn/llama/index.ts');
  const checkpoint = await openModel(path);
  if (!path.endsWith('.gguf')) {
    throw new LearndError('invalid', `${path} is a folder: llama.cpp answers from GGUF files`, {
      field: 'model',
      hint: 'Make one: learnd model quantize DIR --type f16 --out FILE.gguf',
    });
  }
  const loaded = await openGguf(path);
  const generator = await loaded.createGenerator({ sequences: 1, contextSize: Math.min(2048, loaded.contextLength) });
  return {
    name: model,
    async ask(prompt, maxTokens) {
      const text = renderChat(checkpoint, [{ role: 'user', content: prompt }], { addGenerationPrompt: true });
      const tokens = checkpoint.tokenizer.encode(text, { allowSpecial: true });
      const start = performance.now();
      let first: number | undefined;
      const out = await generator.generate({
        ...{ tokens, maxTokens, temperature: 0 },
        onText: () => {
          first ??= performance.now();
        },
      });
      const end = performance.now();
      const firstMs = (first ?? end) - start;
      return { text: out.text, timed: { ok: true, firstMs, totalMs: end - start, tokens: out.tokens.length } };
    },
    async close() {
      await generator.dispose();
      await loaded.dispose();
    },
  };
}

/** Answers of a running daemon, as a client sees them: streamed over HTTP. */
async function daemonAnswerer(data: string, model: string | undefined): Promise<Answerer> {
  const { connectDaemon } = await import('./client.ts');
  const client = connectDaemon({ data });
  return {
    name: model ?? 'champion',
    async ask(prompt, maxTokens) {
      const start = performance.now();
      const body = {
        ...(model && { model }),
        input: prompt,
        max_output_tokens: maxTokens,
        temperature: 0,
        store: false,
      };
      let first: number | undefined;
      let text = '';
      for await (const event of client.events('/v1/responses', { ...body, stream: true })) {
        if (event.type === 'response.output_text.delta') {
          first ??= performance.now();
          text += String(event.delta);
        } else if (event.type === 'response.completed' || event.type === 'response.incomplete') {
          const end = performance.now();
          const usage = (event.response as { usage?: { output_tokens?: number } }).usage;
          const firstMs = (first ?? end) - start;
          return { text, timed: { ok: true, firstMs, totalMs: end - start, tokens: usage?.output_tokens ?? 0 } };
        } else if (event.type === 'response.failed' || event.type === 'error') {
          const failed = event as { error?: { message?: string }; response?: { error?: { message?: string } } };
          const message = failed.response?.error?.message ?? failed.error?.message ?? 'no reason given';
          throw new LearndError('internal', `the daemon failed to answer: ${message}`);
        }
      }
      throw new LearndError('not_ready', 'the daemon ended the answer before it was complete');
    },
    close: async () => undefined,
  };
}

/** A measurement that goes on when an answer fails: the failure is counted, by its line. */
export async function askTimed(
  answerer: Answerer,
  prompt: string,
  maxTokens: number,
): Promise<{ text: string; timed: Timed }> {
  try {
    return await answerer.ask(prompt, maxTokens);
  } catch (error) {
    return { text: '', timed: { ok: false, error: oneLine(error) } };
  }
}
