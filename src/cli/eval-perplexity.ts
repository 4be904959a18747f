import { readFileSync } from 'node:fs';
import { invalid } from '../base/errors.ts';
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

/**
 * Float32 on dequantized weights; the first token of each line is not scored; progress on standard error. `logitBias`: a file as a
 * version or an export has it, part of what is measured.
 */
export async function measure(options: {
  model: string;
  file: string;
  logitBias?: string | undefined;
}): Promise<MeasuredPerplexity> {
  const lines = textLines(options.file);
  const checkpoint = await openModel(await modelPath(options.model));
  const tokenBias =
    options.logitBias === undefined ? undefined : biasOf(options.logitBias, checkpoint.config.vocabSize);
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
        ...(tokenBias && { tokenBias }),
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

function biasOf(file: string, vocabSize: number): Float32Array {
  const bias = new Float32Array(vocabSize);
  let pairs: unknown;
  try {
    pairs = JSON.parse(readFileSync(file, 'utf8'));
  } catch (cause) {
    throw invalid('logit-bias', `${file} cannot be read as JSON: ${(cause as Error).message}`);
  }
  if (!Array.isArray(pairs)) throw invalid('logit-bias', `${file} is not a list of [token id, bias] pairs`);
  for (const [token, value] of pairs as [number, number][]) {
    if (!Number.isInteger(token) || token < 0 || token >= vocabSize || !Number.isFinite(value))
      throw invalid('logit-bias', `${file} has [${token}, ${value}]: not a token of this model with a finite bias`);
    bias[token] = value;
  }
  return bias;
}

export const run = async (options: {
  model: string;
  file: string;
  logitBias?: string | undefined;
}): Promise<PerplexityReport> => (await measure(options)).report;

export const human = (r: PerplexityReport): string =>
  `perplexity ${r.perplexity.toFixed(4)} over ${r.tokens} tokens (${r.bits_per_byte.toFixed(4)} bits per byte)`;
