/** Perplexity of many texts from each one's loss: weighted by tokens, with its standard error, and bits per byte. */

export interface TextLoss {
  /** Sum of -log probability (nats) over the scored tokens. */
  readonly nll: number;
  /** Tokens scored (the first of a sequence is not). */
  readonly tokens: number;
  /** UTF-8 bytes of the text. */
  readonly bytes: number;
}

export interface Perplexity {
  /** exp(nll); null without scored tokens. */
  readonly perplexity: number | null;
  /** Mean over all tokens, nats. */
  readonly nll: number | null;
  /** Standard error of nll, texts being the independent units (ratio estimator); null below two texts. */
  readonly nllError: number | null;
  /** First-order standard error of the perplexity. */
  readonly perplexityError: number | null;
  readonly bitsPerByte: number | null;
  readonly tokens: number;
  readonly bytes: number;
  readonly texts: number;
}

/** Adds up without keeping the texts. Sums suffice for the error too: residuals are r_i = nll_i - mean * tokens_i. */
export class PerplexityTotal {
  #texts = 0;
  #nll = 0;
  #tokens = 0;
  #bytes = 0;
  #nllSquare = 0;
  #tokensSquare = 0;
  #cross = 0;

  /** Texts without a scored token count by their bytes only. */
  add({ nll, tokens, bytes }: TextLoss): void {
    this.#bytes += bytes;
    if (tokens === 0) return;
    this.#texts += 1;
    this.#nll += nll;
    this.#tokens += tokens;
    this.#nllSquare += nll * nll;
    this.#tokensSquare += tokens * tokens;
    this.#cross += nll * tokens;
  }

  value(): Perplexity {
    const n = this.#texts;
    const counts = { tokens: this.#tokens, bytes: this.#bytes, texts: n };
    if (n === 0)
      return { perplexity: null, nll: null, nllError: null, perplexityError: null, bitsPerByte: null, ...counts };
    const nll = this.#nll / this.#tokens;
    const residual = Math.max(0, this.#nllSquare - 2 * nll * this.#cross + nll * nll * this.#tokensSquare);
    const nllError = n < 2 ? null : Math.sqrt((residual * n) / (n - 1)) / this.#tokens;
    const perplexity = Math.exp(nll);
    return {
      perplexity,
      nll,
      nllError,
      perplexityError: nllError === null ? null : perplexity * nllError,
      bitsPerByte: this.#bytes === 0 ? null : this.#nll / Math.LN2 / this.#bytes,
      ...counts,
    };
  }
}

export function perplexity(texts: Iterable<TextLoss>): Perplexity {
  const total = new PerplexityTotal();
  for (const text of texts) total.add(text);
  return total.value();
}

/** How a model's perplexity differs from another's on the same texts. */
export interface PerplexityChange {
  /** Relative: 0.02 is 2% more. */
  readonly change: number;
  /**
   * First-order standard error of it, from the texts' differences: what is hard for both cancels, so it is much smaller than either
   * perplexity's own. Null below two texts.
   */
  readonly standardError: number | null;
}

/** `before` and `after` score the same tokens of the same texts, in one order. Null without a scored token. */
export function perplexityChange(
  before: readonly Omit<TextLoss, 'bytes'>[],
  after: readonly Omit<TextLoss, 'bytes'>[],
): PerplexityChange | null {
  const tokens = before.reduce((sum, text) => sum + text.tokens, 0);
  if (tokens === 0) return null;
  const differences = before.map((text, i) => after[i]!.nll - text.nll);
  const mean = differences.reduce((a, b) => a + b, 0) / tokens;
  const change = Math.expm1(mean);
  const n = before.filter(text => text.tokens > 0).length;
  if (n < 2) return { change, standardError: null };
  const residual = differences.reduce((sum, d, i) => sum + (d - mean * before[i]!.tokens) ** 2, 0);
  return { change, standardError: ((1 + change) * Math.sqrt((residual * n) / (n - 1))) / tokens };
}
