import assert from 'node:assert/strict';
import test from 'node:test';
import { padBatch } from '../../src/learn/model/engine/batch.ts';
import { Decoder } from '../../src/learn/model/engine/decode.ts';
import { forwardTokens } from '../../src/learn/model/engine/forward.ts';
import { headLogits } from '../../src/learn/model/engine/head.ts';
import { type EngineAdapter, loadEngineAdapter, loadEngineModel } from '../../src/learn/model/engine/model.ts';
import { tensorflow } from '../../src/learn/tensor/backend.ts';
import { engineGolden, goldenAdapter, relativeError, weightSource } from '../support/engine-golden.ts';

for (const [name, golden] of Object.entries(engineGolden.cases))
  for (const withAdapter of [false, true])
    test(`${name}${withAdapter ? ' with LoRA' : ''}: a token at a time gives the logits of the whole text`, () => {
      const tf = tensorflow();
      const model = loadEngineModel({ config: golden.config, weights: weightSource(golden.weights) });
      const adapter = withAdapter ? loadEngineAdapter(model, goldenAdapter(golden.lora)) : undefined;
      const decoder = new Decoder(model, adapter);
      const { vocabSize } = model.config;
      const token = (i: number) => (7 * i + 3) % vocabSize;
      // Of different lengths, so that padding lies between a text and what is added to it.
      let texts: number[][] = [
        [token(0)],
        Array.from({ length: 7 }, (_, i) => token(i)),
        [token(4), token(9), token(2)],
      ];
      const check = (logits: Float32Array): void => {
        const whole = wholeLogits(model, texts, adapter);
        assert.ok(relativeError(logits, whole) < 1e-5, `${relativeError(logits, whole)}`);
      };
      // The tables of angles are made once a length and stay the model's.
      check(read(decoder.begin(texts)));
      check(read(decoder.next(add(texts, token))));
      const goOn = (from?: readonly number[]): void => {
        const tokens = add(texts, i => token(i + 31));
        const before = tf.memory().numTensors;
        const logits = read(decoder.next(tokens, from));
        assert.equal(tf.memory().numTensors, before);
        check(logits);
      };
      goOn();
      // Texts that fork, change places, and end.
      for (const from of [[1, 1, 0, 2], [3, 0], [0], [0, 0, 0]]) {
        texts = from.map(i => [...texts[i]!]);
        check(
          read(
            decoder.next(
              add(texts, i => token(i + 31)),
              from,
            ),
          ),
        );
      }
      assert.throws(() => decoder.next([1], [3]), { code: 'invalid', message: /cannot go on from texts 3/ });
      assert.throws(() => decoder.begin([[1], []]), { code: 'invalid', message: /text 1 has no token/ });
      const before = tf.memory().numTensors;
      decoder.dispose();
      assert.equal(tf.memory().numTensors, before - 2 * golden.config.layers);
      adapter?.dispose();
      model.dispose();
    });

/** Adds a token to each text, in place, and gives the tokens. */
const add = (texts: number[][], token: (i: number) => number): number[] =>
  texts.map((text, i) => {
    text.push(token(i + text.length));
    return text.at(-1)!;
  });

function read(logits: { dataSync(): unknown; dispose(): void }): Float32Array {
  const values = logits.dataSync() as Float32Array;
  logits.dispose();
  return values;
}

function wholeLogits(
  model: Parameters<typeof forwardTokens>[0],
  texts: readonly number[][],
  adapter: EngineAdapter | undefined,
): Float32Array {
  const batch = padBatch(texts, model.config);
  const hidden = forwardTokens(model, batch, { adapter });
  const logits = headLogits(
    model,
    hidden,
    Int32Array.from(batch.lengths, (n, b) => b * batch.length + n - 1),
  );
  hidden.dispose();
  return read(logits);
}
