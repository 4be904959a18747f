import { type Perplexity, perplexity } from '../../src/learn/metrics/perplexity.ts';
import { loadEngineModel, scoreTokens } from '../../src/learn/model/engine/index.ts';
import { openModel } from '../../src/learn/model/open.ts';

/** Perplexity with its standard error, float32 on the dequantized weights; several sets of texts in one loading. */
export async function perplexities(path: string, sets: readonly (readonly string[])[]): Promise<Perplexity[]> {
  const checkpoint = await openModel(path);
  const model = loadEngineModel(checkpoint);
  try {
    return sets.map(texts => {
      const scores = scoreTokens(
        model,
        texts.map(text => checkpoint.tokenizer.encode(text).slice(0, 512)),
      );
      return perplexity(scores.map((s, i) => ({ ...s, bytes: Buffer.byteLength(texts[i]!) })));
    });
  } finally {
    model.dispose();
  }
}
