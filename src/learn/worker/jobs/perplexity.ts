import { scoreTokens } from '../../model/engine/index.ts';
import type { JobContext } from '../serve.ts';
import type { Jobs, TextScore } from '../types.ts';
import { type Loaded, loadForScoring } from './loaded.ts';

/** Tokens scored between two looks at the parent: about a second's work on a busy core. */
const TOKENS_AT_ONCE = 2048;

/** Scores texts in order of length, so that little of a batch is padding, and gives them back in theirs. */
export async function scoreTexts(
  { checkpoint, model, adapter }: Pick<Loaded, 'checkpoint' | 'model' | 'adapter'>,
  texts: readonly string[],
  context: JobContext,
  options: { tokenBias?: Float32Array; stage?: string } = {},
): Promise<TextScore[]> {
  const tokens = texts.map(text => checkpoint.tokenizer.encode(text));
  const order = [...tokens.keys()].sort((a, b) => tokens[a]!.length - tokens[b]!.length);
  const scores: TextScore[] = new Array(texts.length);
  for (let at = 0; at < order.length; ) {
    const group: number[] = [];
    for (let sum = 0; at < order.length && (group.length === 0 || sum < TOKENS_AT_ONCE); at++) {
      group.push(order[at]!);
      sum += tokens[order[at]!]!.length;
    }
    await context.breathe();
    const scored = scoreTokens(
      model,
      group.map(i => tokens[i]!),
      { adapter, tokenBias: options.tokenBias },
    );
    for (const [n, i] of group.entries()) {
      const { nll, tokens: count, firstTokenNll } = scored[n]!;
      scores[i] = { nll, tokens: count, bytes: Buffer.byteLength(texts[i]!), first: firstTokenNll ?? null };
    }
    context.progress({ stage: options.stage ?? 'perplexity', done: at, total: order.length });
  }
  return scores;
}

/**
 * Negative log-likelihood of each text under a version: float32 on dequantized weights, adapter and logit biases applied, no
 * special tokens, the first token of each text not scored.
 */
export async function perplexity(
  input: Jobs['perplexity']['input'],
  context: JobContext,
): Promise<Jobs['perplexity']['result']> {
  const loaded = await loadForScoring(input.files, input.threads);
  const bias = input.files.logitBias;
  let tokenBias: Float32Array | undefined;
  if (bias !== undefined) {
    tokenBias = new Float32Array(loaded.checkpoint.config.vocabSize);
    for (const [token, value] of bias) tokenBias[token] = value;
  }
  return await scoreTexts(loaded, input.texts, context, tokenBias === undefined ? {} : { tokenBias });
}
