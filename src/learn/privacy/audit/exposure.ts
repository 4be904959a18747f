/**
 * Exposure of a secret among candidates that could have been it (arXiv 1802.08232): log2 of their number minus log2 of the secret's
 * rank by perplexity. 0: nothing was memorised beyond chance; log2 of the candidates: the model prefers it to all of them.
 */
import { invalid } from '../../../base/errors.ts';

/**
 * @param references perplexities (or losses) of candidates that were not trained on
 * @param secret the one of the secret, which is counted among the candidates only for its rank
 */
export function exposure(references: readonly number[], secret: number): number {
  if (references.length === 0) throw invalid('references', 'there is no candidate to rank the secret among');
  const rank = 1 + references.filter(value => value < secret).length;
  return Math.log2(references.length) - Math.log2(rank);
}
