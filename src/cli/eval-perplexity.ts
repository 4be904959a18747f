import { type Perplexity, perplexity } from '../learn/metrics/perplexity.ts';
import { openModel } from '../learn/model/open.ts';
import { modelPath } from './model-path.ts';
import { ensureNative } from './native.ts';
import { textLines } from './text-lines.ts';

export interface PerplexityReport {
  /** exp(nll / tokens). */
  readonly perplexity: number;
  /** Summed over the scored tokens, nats. */
  readonly nll: number;
  readonly tokens: number;
  readonly bytes: number;
  readonly bits_per_byte: number;
}

export interface MeasuredPerplexity {
  readonly report: PerplexityReport;
  /** With standard errors. */
  readonly total: Perplexity;
  /** Nats a token of each line that has one to score. */
  readonly perLine: readonly number[];
}

/** Float32 on dequantized weights; the first token of each line is not scored; progress on standard error. */
export async function measure(options: { model: string; file: string }): Promise<MeasuredPerplexity> {
  const lines = textLines(options.file);
  const checkpoint = await openModel(await modelPath(options.model));
  ensureNative();
  const { loadEngineModel } = await import('../learn/model/engine/model.ts');
  const { scoreTokens } = await import('../learn/model/engine/score.ts');
  const model = loadEngineModel(checkpoint);
  try {
    let said = Date.now();
    const scores = scoreTokens(
      model,
      lines.map(line => checkpoint.tokenizer.encode(line)),
      {
        onBatch: (done, total) => {
          if (Date.now() - said < 2000) return;
          said = Date.now();
          process.stderr.write(`scored ${done} of ${total} lines\n`);
        },
      },
    );
    const nll = scores.reduce((sum, s) => sum + s.nll, 0);
    const tokens = scores.reduce((sum, s) => sum + s.tokens, 0);
    const bytes = lines.reduce((sum, line) => sum + Buffer.byteLength(line), 0);
    return {
      report: { perplexity: Math.exp(nll / tokens), nll, tokens, bytes, bits_per_byte: nll / Math.LN2 / bytes },
      total: perplexity(scores.map((s, i) => ({ ...s, bytes: Buffer.byteLength(lines[i]!) }))),
      perLine: scores.filter(s => s.tokens > 0).map(s => s.nll / s.tokens),
    };
  } finally {
    model.dispose();
  }
}

export const run = async (options: { model: string; file: string }): Promise<PerplexityReport> =>
  (await measure(options)).report;

export const human = (r: PerplexityReport): string =>
  `perplexity ${r.perplexity.toFixed(4)} over ${r.tokens} tokens (${r.bits_per_byte.toFixed(4)} bits per byte)`;
