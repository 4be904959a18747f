import { Decoder } from '../model/engine/decode.ts';
import type { EngineAdapter, EngineModel } from '../model/engine/model.ts';
import type { SecureStream } from '../privacy/index.ts';
import { type Tensor, tensorflow } from '../tensor/backend.ts';

export interface SampleOptions {
  /** Longest continuation, tokens. */
  readonly tokens: number;
  /** Ends a sequence, and is part of it. */
  readonly end: number | undefined;
  readonly adapter?: EngineAdapter | undefined;
  readonly tokenBias?: Tensor | undefined;
}

/** Continuations drawn from the model at temperature 1; serving has llama.cpp. */
export function sampleContinuations(
  model: EngineModel,
  prompts: readonly (readonly number[])[],
  options: SampleOptions,
  stream: SecureStream,
): number[][] {
  const tf = tensorflow();
  const { vocabSize, contextLength } = model.config;
  const sequences = prompts.map(prompt => [...prompt]);
  const decoder = new Decoder(model, options.adapter);
  const fits = (i: number) => sequences[i]!.length < contextLength;
  /** Those that go on, as the decoder has them. */
  let open = [...sequences.keys()].filter(fits);
  if (open.length === 0 || options.tokens < 1) return sequences;
  try {
    let logits = decoder.begin(open.map(i => sequences[i]!));
    for (let n = 1; ; n++) {
      const probabilities = tf.tidy(() => {
        const biased = options.tokenBias === undefined ? logits : tf.add(logits, options.tokenBias);
        return tf.softmax(biased).dataSync() as Float32Array;
      });
      logits.dispose();
      const goOn: number[] = [];
      for (const [row, i] of open.entries()) {
        const token = draw(probabilities.subarray(row * vocabSize, (row + 1) * vocabSize), stream.uniform());
        sequences[i]!.push(token);
        if (token !== options.end && fits(i)) goOn.push(row);
      }
      if (n === options.tokens || goOn.length === 0) break;
      open = goOn.map(row => open[row]!);
      logits = decoder.next(
        open.map(i => sequences[i]!.at(-1)!),
        goOn,
      );
    }
  } finally {
    decoder.dispose();
  }
  return sequences;
}

function draw(probabilities: Float32Array, at: number): number {
  let left = at;
  let last = 0;
  for (const [token, p] of probabilities.entries()) {
    if (p > 0) last = token;
    left -= p;
    if (left < 0) return token;
  }
  return last;
}
