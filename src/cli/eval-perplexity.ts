import { readFileSync } from 'node:fs';
import { invalid } from '../base/errors.ts';
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

/** Float32 on dequantized weights; the first token of each line is not scored; progress on standard error. */
export async function run(options: { model: string; file: string; logitBias?: string }): Promise<PerplexityReport> {
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
        ...(options.logitBias && { tokenBias: readBias(options.logitBias, checkpoint.config.vocabSize) }),
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
    return { perplexity: Math.exp(nll / tokens), nll, tokens, bytes, bits_per_byte: nll / Math.LN2 / bytes };
  } finally {
    model.dispose();
  }
}

/** A bias on the vocabulary as `learnd train` writes it: [[token, value], …]. */
function readBias(file: string, vocabSize: number): Float32Array {
  const dense = new Float32Array(vocabSize);
  let rows: unknown;
  try {
    rows = JSON.parse(readFileSync(file, 'utf8'));
  } catch (cause) {
    throw invalid('logit-bias', `${file}: ${(cause as Error).message}`, { cause });
  }
  if (!Array.isArray(rows)) throw invalid('logit-bias', `${file} is not a list of [token, value]`);
  for (const row of rows as unknown[]) {
    const [token, value] = Array.isArray(row) ? (row as unknown[]) : [];
    if (
      !Number.isInteger(token) ||
      !((token as number) >= 0 && (token as number) < vocabSize) ||
      !Number.isFinite(value)
    )
      throw invalid('logit-bias', `${file}: ${JSON.stringify(row)} is not [token, value] for ${vocabSize} tokens`);
    dense[token as number] = value as number;
  }
  return dense;
}

export const human = (r: PerplexityReport): string =>
  `perplexity ${r.perplexity.toFixed(4)} over ${r.tokens} tokens (${r.bits_per_byte.toFixed(4)} bits per byte)`;
