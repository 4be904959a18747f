import assert from 'node:assert/strict';
import { copyFileSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { LearndError } from '../../src/base/errors.ts';
import { openGguf } from '../../src/learn/llama/index.ts';
import { testFolder } from '../support/daemon.ts';
import { byteToken, END_OF_TURN, writeTinyHead, writeTinyLora, writeTinyModel } from '../support/tiny-model.ts';

const code = (expected: string) => (thrown: unknown) => thrown instanceof LearndError && thrown.code === expected;

test('greedy answers: the same every time, from the cache, side by side, and after a cancelled one', async t => {
  const model = await openGguf(await writeTinyModel(testFolder(t, 'llama'), 'a', 1));
  const generator = await model.createGenerator({ sequences: 3 });
  t.after(() => model.dispose());
  const tokens = model.tokenize('tell me about my balance');
  const first = await generator.generate({ tokens, maxTokens: 40 });
  assert.equal(first.tokens.length, 40);
  assert.equal(first.reason, 'length');
  const again = await generator.generate({ tokens, maxTokens: 40 });
  assert.deepEqual(again.tokens, first.tokens);
  assert.equal(again.cachedTokens, tokens.length - 1);

  const together = await Promise.all(Array.from({ length: 7 }, () => generator.generate({ tokens, maxTokens: 40 })));
  for (const other of together) assert.deepEqual(other.tokens, first.tokens);

  const abort = new AbortController();
  let seen = 0;
  const cut = await generator.generate({
    tokens,
    maxTokens: 500,
    signal: abort.signal,
    logitBias: [[byteToken('x'), 1_000]],
    onText: () => {
      if (++seen === 5) abort.abort();
    },
  });
  assert.equal(cut.reason, 'cancelled');
  assert.ok(cut.tokens.length <= 6, `stopped after ${cut.tokens.length} tokens`);
  assert.deepEqual((await generator.generate({ tokens, maxTokens: 40 })).tokens, first.tokens);
});

test('text comes as whole characters, and concatenates to the answer', async t => {
  const model = await openGguf(await writeTinyModel(testFolder(t, 'llama'), 'a', 4));
  const generator = await model.createGenerator();
  t.after(() => model.dispose());
  // A token is a byte here, so every character outside ASCII is spread over several.
  const text = 'né 🙂 日本';
  const wanted = model.tokenize(text);
  assert.equal(wanted.length, Buffer.byteLength(text));
  let step = 0;
  const deltas: string[] = [];
  const tokens = model.tokenize('say it');
  for (const token of wanted) {
    const { text: piece } = await generator.generate({ tokens, maxTokens: 1, logitBias: [[token, 1_000]] });
    step += piece.length;
  }
  assert.ok(step > 0);
  const { StreamingText } = await import('../../src/learn/llama/text.ts');
  const stream = new StreamingText(ids => model.detokenize(ids));
  for (const token of wanted) {
    const delta = stream.push(token);
    if (delta !== '') deltas.push(delta);
  }
  deltas.push(stream.end());
  assert.deepEqual(
    deltas.filter(delta => delta !== ''),
    [...text],
  );
});

test('an answer ends at the end-of-turn token and before a stop text; sampling follows its seed', async t => {
  const model = await openGguf(await writeTinyModel(testFolder(t, 'llama'), 'a', 1));
  t.after(() => model.dispose());
  const ended = await model.createGenerator({ logitBias: [[END_OF_TURN, 1_000]] });
  const tokens = model.tokenize('hello');
  assert.deepEqual(await ended.generate({ tokens, maxTokens: 9 }), {
    reason: 'stop',
    text: '',
    tokens: [],
    cachedTokens: 0,
  });
  const generator = await model.createGenerator({ logitBias: [[byteToken('a'), 1_000]] });
  const stopped = await generator.generate({ tokens, maxTokens: 9, stop: ['aaa'] });
  assert.equal(stopped.text, '');
  assert.equal(stopped.reason, 'stop');
  const free = await model.createGenerator();
  const sample = async (seed: number) => (await free.generate({ tokens, maxTokens: 20, temperature: 1, seed })).tokens;
  assert.deepEqual(await sample(7), await sample(7));
  assert.notDeepEqual(await sample(7), await sample(8));
  await assert.rejects(free.generate({ tokens: [], maxTokens: 1 }), code('invalid'));
  await assert.rejects(free.generate({ tokens: Array(2_000).fill(5), maxTokens: 1 }), code('invalid'));
  const full = await free.generate({
    tokens: Array(free.contextSize - 3).fill(5),
    maxTokens: 100,
    logitBias: [[5, 1_000]],
  });
  assert.equal(full.tokens.length, 3);
});

test('a LoRA belongs to its context; at scale 0 it answers like the base', async t => {
  const folder = testFolder(t, 'llama');
  const path = await writeTinyModel(folder, 'a', 1);
  const adapter = await writeTinyLora(path, join(folder, 'lora.gguf'), 5);
  const model = await openGguf(path);
  t.after(() => model.dispose());
  const answers: number[][] = [];
  for (const scale of [undefined, 1, 0]) {
    const generator = await model.createGenerator(scale === undefined ? {} : { adapter: { path: adapter, scale } });
    answers.push((await generator.generate({ tokens: model.tokenize('hello'), maxTokens: 20 })).tokens);
  }
  const [base, tuned, off] = answers;
  assert.notDeepEqual(tuned, base);
  assert.deepEqual(off, base);
});

test('label probabilities: the product of normalised next-token probabilities along the trie', async t => {
  const model = await openGguf(await writeTinyModel(testFolder(t, 'llama'), 'a', 2));
  const generator = await model.createGenerator();
  t.after(() => model.dispose());
  const labels = ['card', 'card lost', 'cash', 'transfer'];
  const tokens = model.tokenize('Message: where is my card?\nLabel:');
  const terminator = byteToken('\n');
  const ids = labels.map(label => model.tokenize(` ${label}`));
  const { probabilities, evaluations } = await generator.scoreLabels({
    tokens,
    labels: ids,
    terminator,
    negligible: 0,
  });
  assert.ok(Math.abs(probabilities.reduce((sum, p) => sum + p, 0) - 1) < 1e-6);
  assert.equal(evaluations, 3, 'branches after " ", "ca" and "card"');

  /** P(next = token | prefix), restricted to the candidates: measured by how the choice between two flips with a bias. */
  const among = async (prefix: string, a: string, b: string): Promise<number> => {
    let [low, high] = [-60, 60];
    for (let n = 0; n < 22; n++) {
      const middle = (low + high) / 2;
      const { tokens: chosen } = await generator.generate({
        tokens: [...tokens, ...model.tokenize(prefix)],
        maxTokens: 1,
        logitBias: [
          [byteToken(a), 1_000 + middle],
          [byteToken(b), 1_000],
        ],
      });
      if (chosen[0] === byteToken(a)) high = middle;
      else low = middle;
    }
    return 1 / (1 + Math.exp(low)); // the bias at which both are equal is minus the difference of their logits
  };
  const c = await among(' ', 'c', 't');
  const card = await among(' ca', 'r', 's');
  const end = await among(' card', '\n', ' ');
  const expected = [c * card * end, c * card * (1 - end), c * (1 - card), 1 - c];
  for (const [i, p] of expected.entries()) {
    assert.ok(Math.abs(probabilities[i]! - p) < 2e-4, `${labels[i]}: ${probabilities[i]} and ${p}`);
  }
  await assert.rejects(generator.scoreLabels({ tokens, labels: [[5], [5]], terminator }), code('invalid'));
});

test('features: one vector a text, the same alone and in company; empty and overlong texts are safe', async t => {
  const folder = testFolder(t, 'llama');
  const head = await writeTinyHead(await writeTinyModel(folder, 'a', 3), folder, 'h', ['x', 'y'], 1);
  const model = await openGguf(head.features);
  t.after(() => model.dispose());
  const extractor = await model.createFeatureExtractor({ maxTokens: 256 });
  const long = 'word '.repeat(500);
  const together = await extractor.features(['first text', '', 'second text', long, 'first text']);
  assert.deepEqual(
    together.map(vector => vector.length),
    [32, 32, 32, 32, 32],
  );
  assert.deepEqual(together[0], together[4]);
  assert.notDeepEqual(together[0], together[2]);
  assert.ok(together[1]!.every(value => value === 0));
  const [alone] = await extractor.features(['second text']);
  assert.deepEqual(alone, together[2]);
  const [cut] = await extractor.features([long.slice(0, 253)]);
  assert.deepEqual(cut, together[3], 'a text over the limit is its first tokens');
});

test('a damaged or missing file is an error, not a crash', async t => {
  const folder = testFolder(t, 'llama');
  const good = await writeTinyModel(folder, 'good', 1);
  const bytes = readFileSync(good);
  const bad = join(folder, 'bad.gguf');
  await assert.rejects(openGguf(join(folder, 'none.gguf')), code('not_found'));
  await assert.rejects(openGguf(folder), code('not_found'));
  const cases = { empty: 0, header: 20, keys: 900, tensors: bytes.length - 4_000, 'last bytes': bytes.length - 40 };
  for (const [name, length] of Object.entries(cases)) {
    writeFileSync(bad, bytes.subarray(0, length));
    await assert.rejects(openGguf(bad), code('corrupt'), name);
  }
  // Any byte of the header changed: refused or harmless, and this process is still there to say so.
  const header = bytes.indexOf('token_embd.weight') + 1_500;
  for (let n = 0; n < 60; n++) {
    const changed = Buffer.from(bytes);
    changed[(n * 7_919) % (n % 2 === 0 ? 600 : header)]! ^= 1 << (n % 8);
    writeFileSync(bad, changed);
    const opened = await openGguf(bad).catch(error => assert.ok(code('corrupt')(error), String(error)));
    await opened?.dispose();
  }
  writeFileSync(bad, Buffer.alloc(5_000, 'x'));
  await assert.rejects(openGguf(bad), code('corrupt'));
  const model = await openGguf(good);
  t.after(() => model.dispose());
  await assert.rejects(model.createGenerator({ adapter: { path: bad, scale: 1 } }), code('corrupt'));
  copyFileSync(good, bad);
  await assert.rejects(model.createGenerator({ adapter: { path: bad, scale: 1 } }), code('corrupt'));
  await assert.rejects(model.createGenerator({ adapter: { path: `${bad}.none`, scale: 1 } }), code('not_found'));
  const generator = await model.createGenerator();
  assert.equal((await generator.generate({ tokens: model.tokenize('still here'), maxTokens: 3 })).tokens.length, 3);
});
