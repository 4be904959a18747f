import { invalid } from '../../../base/errors.ts';
import { EditedWeights, type Origin } from '../formats/raw-weights.ts';
import type { ModelConfig, Tokenizer, WeightSource } from '../types.ts';
import { BpeTokenizer } from './bpe.ts';
import { type GrownToken, growTokenizer } from './grow.ts';

export interface GrownModel {
  readonly config: ModelConfig;
  readonly weights: EditedWeights;
  readonly tokenizer: BpeTokenizer;
  readonly added: readonly GrownToken[];
}

const VOCABULARY = ['model.embed_tokens.weight', 'lm_head.weight'];

/**
 * A model with up to `add` more tokens for what is frequent in `texts`. A new token's embedding, and its row of an untied head,
 * is the mean of those of the pieces it was cut into before; every other weight stays as stored. Train a little afterwards: until
 * then the model has read the new tokens only as that mean.
 */
export function growModel(
  model: { config: ModelConfig; weights: WeightSource; tokenizer: Tokenizer },
  texts: Iterable<string>,
  add: number,
): GrownModel {
  const { config, weights, tokenizer } = model;
  if (!(tokenizer instanceof BpeTokenizer)) throw invalid('tokenizer', 'only a byte-level BPE vocabulary can grow');
  if (tokenizer.vocabSize !== config.vocabSize) {
    throw invalid(
      'vocab_size',
      `the tokenizer has ${tokenizer.vocabSize} tokens, the model rows for ${config.vocabSize}`,
      {
        hint: 'New tokens follow the rows there are: the two must agree first.',
      },
    );
  }
  const grown = growTokenizer(tokenizer, texts, add);
  const count = grown.added.length;
  const origins = new Map<string, Origin>();
  for (const name of weights.names()) {
    const make = () => meanRows(weights.read(name).data, config.hidden, grown.added);
    origins.set(
      name,
      VOCABULARY.includes(name) && count > 0 ? { kind: 'more', name, count, make } : { kind: 'same', name },
    );
  }
  return {
    config: { ...config, vocabSize: config.vocabSize + count },
    weights: new EditedWeights(weights, origins),
    ...grown,
  };
}

/** For each new token the mean of its pieces' rows. [added, width] */
function meanRows(rows: Float32Array, width: number, added: readonly GrownToken[]): Float32Array {
  const out = new Float32Array(added.length * width);
  for (const [n, { pieces }] of added.entries()) {
    for (let c = 0; c < width; c++) {
      let sum = 0;
      for (const id of pieces) sum += rows[id * width + c]!;
      out[n * width + c] = sum / pieces.length;
    }
  }
  return out;
}
