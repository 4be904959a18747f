/**
 * Exposure of a secret among candidates that could have been it (arXiv 1802.08232): log2 of their number minus log2 of the secret's
 * rank by perplexity. 0: nothing was memorised beyond chance; log2 of the candidates: the model prefers it to all of them.
 */
import { invalid } from '../../../base/errors.ts';
import { fitSkewNormal, logSkewNormalCdf } from './skew-normal.ts';

/**
 * @param references perplexities (or losses) of candidates that were not trained on
 * @param secret the one of the secret, which is counted among the candidates only for its rank
 */
export function exposure(references: readonly number[], secret: number): number {
  if (references.length === 0) throw invalid('references', 'there is no candidate to rank the secret among');
  const rank = 1 + references.filter(value => value < secret).length;
  return Math.log2(references.length) - Math.log2(rank);
}

/**
 * The same beyond what so many candidates can show: -log2 of the share of all candidates that would be likelier than each secret,
 * by a skew-normal distribution fitted to those that were scored (arXiv 1802.08232, section 4.4).
 * @param references perplexities (or losses) of at least 8 candidates that were not trained on
 * @param options.few The references are some dozen: their spread is taken with care (`fitSkewNormal`).
 * @returns bits, in the order of the secrets. 1.44 is what chance gives on average.
 */
export function extrapolatedExposure(
  references: readonly number[],
  secrets: readonly number[],
  options: { few?: boolean } = {},
): number[] {
  const fitted = fitSkewNormal(references, options);
  return secrets.map(secret => -logSkewNormalCdf(secret, fitted) / Math.LN2);
}
