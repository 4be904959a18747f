import assert from 'node:assert/strict';
import test from 'node:test';
import { loadEngineModel, scoreTokens } from '../../src/learn/model/engine/index.ts';
import { streamFor } from '../../src/learn/privacy/index.ts';
import { mapSource, pretrain, randomWeights, scratchConfig } from '../../src/learn/training/pretrain.ts';

const seed = new Uint8Array(32).fill(3);
const words = ['the card', 'my account', 'a transfer', 'your bank', 'the fee'];
const verbs = ['is late', 'was blocked', 'costs too much', 'did not arrive', 'works again'];
const choice = streamFor(seed, 'sentences');
const sentence = () => `${words[choice.below(5)]} ${verbs[choice.below(5)]} today`;
const encode = (text: string) => [...text].map(c => (c === ' ' ? 0 : c.charCodeAt(0) - 96));

test('pre-training from random weights learns the text, and a seed makes it repeatable', async () => {
  const config = scratchConfig({ vocabSize: 28, hidden: 32, layers: 2, ffn: 64, contextLength: 64 });
  const documents = Array.from({ length: 300 }, () => encode(sentence()));
  const run = async (steps: number) => {
    const work = pretrain({ config, documents, separator: 27, seed, steps, sequenceLength: 48, learningRate: 1e-2 });
    for (;;) {
      const next = await work.next();
      if (next.done) return next.value;
    }
  };
  const { weights, losses } = await run(120);
  assert.ok(Math.abs(losses[0]! - Math.log(28)) < 0.1, 'a random model knows nothing');
  const model = loadEngineModel({ config, weights: mapSource(weights) });
  const [fluent, scrambled] = ['the fee was blocked today', 'yadot dekcolb saw eef eht'].map(text => {
    const [score] = scoreTokens(model, [[27, ...encode(text)]]);
    return score!.nll / score!.tokens;
  });
  assert.ok(fluent! < 0.6 && scrambled! > 2, `${fluent} nats a letter for a sentence, ${scrambled} for its reverse`);
  model.dispose();
  const [once, again] = [await run(3), await run(3)];
  assert.deepEqual(once.losses, again.losses);
});

test('a shape that cannot work is refused by the field at fault', () => {
  assert.throws(() => scratchConfig({ vocabSize: 100, hidden: 30, heads: 4 }), { field: 'hidden' });
  assert.throws(() => scratchConfig({ vocabSize: 100, heads: 4, kvHeads: 3 }), { field: 'kvHeads' });
  assert.throws(() => scratchConfig({ vocabSize: 0 }), { field: 'vocabSize' });
  const weights = randomWeights(scratchConfig({ vocabSize: 100 }), streamFor(seed, 'x'));
  assert.throws(() => weights.read('nothing'), { field: 'name' });
});
