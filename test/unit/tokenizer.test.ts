import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { renderChat } from '../../src/learn/model/chat.ts';
import { BpeTokenizer } from '../../src/learn/model/tokenizer/bpe.ts';
import { growTokenizer } from '../../src/learn/model/tokenizer/grow.ts';
import { readTokenizerJson, tokenizerJson } from '../../src/learn/model/tokenizer/hf-json.ts';
import type { PreName } from '../../src/learn/model/tokenizer/pretokenize.ts';
import { trainBpe } from '../../src/learn/model/tokenizer/train.ts';
import { fc } from '../support/properties.ts';

interface Expected {
  text: string;
  ids: number[];
  special: number[];
  decoded: string;
}
interface Golden {
  train: string[];
  small: Record<PreName, { tokenizer: Record<string, unknown>; texts: Expected[] }>;
  domain: string[];
  grown: Record<
    'smollm' | 'llama-bpe',
    { add: number; tokens: string[]; merges: [string, string][]; texts: Omit<Expected, 'decoded'>[] }
  >;
}

const golden = JSON.parse(readFileSync(new URL('../golden/tokenizer.json', import.meta.url), 'utf8')) as Golden;

function fromJson(json: unknown) {
  const folder = mkdtempSync(join(tmpdir(), 'learnd-tokenizer-'));
  try {
    const path = join(folder, 'tokenizer.json');
    writeFileSync(path, JSON.stringify(json));
    return readTokenizerJson(path);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

for (const [name, { tokenizer: json, texts }] of Object.entries(golden.small)) {
  test(`${name}: the ids are those of Hugging Face tokenizers`, () => {
    const tokenizer = fromJson(json);
    assert.equal(tokenizer.spec.pre, name);
    for (const { text, ids, special, decoded } of texts) {
      assert.deepEqual(tokenizer.encode(text), ids, JSON.stringify(text));
      assert.deepEqual(tokenizer.encode(text, { allowSpecial: true }), special, JSON.stringify(text));
      assert.equal(tokenizer.decode(special), decoded);
    }
  });

  test(`${name}: tokenizer.json written and read again is the same tokenizer`, () => {
    const tokenizer = fromJson(json);
    assert.deepEqual(fromJson(tokenizerJson(tokenizer.spec)).spec, tokenizer.spec);
  });
}

test('any text survives encoding and decoding', () => {
  const tokenizer = fromJson(golden.small.smollm.tokenizer);
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), text => {
      assert.equal(tokenizer.decode(tokenizer.encode(text)), text);
    }),
    { numRuns: 300 },
  );
});

test('the trainer merges what minbpe merges: aaabdaaabac', () => {
  const tokenizer = trainBpe(['aaabdaaabac'], 259);
  assert.deepEqual(tokenizer.encode('aaabdaaabac'), [258, 100, 258, 97, 99]);
  assert.equal(tokenizer.decode([258, 100, 258, 97, 99]), 'aaabdaaabac');
});

for (const name of ['gpt-2', 'smollm', 'llama-bpe', 'qwen2'] as const) {
  test(`${name}: the trainer learns the merges of Hugging Face's BpeTrainer, in order`, () => {
    const { spec } = trainBpe(golden.train, 500, [], { pre: name });
    const model = golden.small[name].tokenizer.model as { merges: Array<[string, string] | string> };
    assert.deepEqual(
      spec.merges.map(pair => pair.join(' ')),
      model.merges.map(pair => (typeof pair === 'string' ? pair : pair.join(' '))),
    );
  });
}

for (const name of ['smollm', 'llama-bpe'] as const) {
  test(`${name}: a grown vocabulary merges on where the old one stopped, and encodes as Hugging Face tokenizers does`, () => {
    const old = fromJson(golden.small[name].tokenizer);
    const { add, tokens, merges, texts } = golden.grown[name];
    const { tokenizer, added } = growTokenizer(old, golden.domain, add);
    assert.deepEqual(tokenizer.spec.tokens.slice(old.vocabSize), tokens);
    assert.deepEqual(tokenizer.spec.merges.slice(old.spec.merges.length), merges);
    assert.deepEqual(tokenizer.spec.tokens.slice(0, old.vocabSize), old.spec.tokens, 'no id moves');
    assert.equal(added.length, tokens.length);
    if (name === 'llama-bpe') assert.ok(added.length < add, 'ends when no pair occurs twice');
    for (const { text, ids, special } of texts) {
      assert.deepEqual(tokenizer.encode(text), ids, JSON.stringify(text));
      assert.deepEqual(tokenizer.encode(text, { allowSpecial: true }), special, JSON.stringify(text));
    }
    for (const { id, text, pieces } of added) {
      assert.ok(pieces.length > 1 && pieces.every(piece => piece < old.vocabSize));
      assert.equal(old.decode(pieces), tokenizer.decode([id]));
      assert.ok(text.length > 0);
    }
    assert.deepEqual(fromJson(tokenizerJson(tokenizer.spec)).spec, tokenizer.spec);
    assert.throws(() => growTokenizer(old, golden.domain, 0), { code: 'invalid', field: 'add' });
  });
}

test('special tokens come last, are only read where allowed, and a too small vocabulary is refused', () => {
  const tokenizer = trainBpe(golden.train, 400, ['<|im_start|>', '<|im_end|>']);
  assert.equal(tokenizer.vocabSize, 400);
  assert.deepEqual([tokenizer.bosId, tokenizer.eosId], [398, 399]);
  assert.deepEqual(tokenizer.encode('<|im_end|>', { allowSpecial: true }), [399]);
  assert.ok(!tokenizer.encode('<|im_end|>').includes(399));
  assert.equal(tokenizer.decode([398, 97, 399], { skipSpecial: true }), 'a');
  assert.throws(() => trainBpe(['a'], 257, ['x', 'y']), /vocab|between 258/);
  assert.throws(() => tokenizer.decode([400]), /400 is not below 400/);
});

test('special tokens of any punctuation are found, the longest first', () => {
  const specials = ['<|a-b/c|>', '<|a', '[x]^$.*+?(){}\\'];
  const tokenizer = trainBpe(['a'], 259, specials);
  assert.deepEqual(
    tokenizer.encode(`${specials[2]}${specials[0]}${specials[1]}`, { allowSpecial: true }),
    [258, 256, 257],
  );
});

test('a merge of tokens that are not in the vocabulary is corrupt', () => {
  assert.throws(
    () => new BpeTokenizer({ tokens: ['a', 'b'], types: [1, 1], merges: [['a', 'c']], pre: 'gpt-2' }, 'x.gguf'),
    { code: 'corrupt', message: /x\.gguf: merge 0/ },
  );
});

test('a chat is rendered by the model template, or as ChatML', () => {
  const tokenizer = trainBpe(['a'], 258, ['<s>', '</s>']);
  const messages = [{ role: 'user', content: 'Hi' }] as const;
  const plain = { path: 'x', tokenizer, chatTemplate: undefined };
  assert.equal(
    renderChat(plain, messages, { addGenerationPrompt: true }),
    '<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n',
  );
  const own =
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m['content'] | trim }}{{ eos_token }}{% endfor %}";
  assert.equal(renderChat({ ...plain, chatTemplate: own }, messages), '<s>[user]Hi</s>');
  assert.throws(() => renderChat({ ...plain, chatTemplate: '{{ raise_exception("no system role") }}' }, messages), {
    code: 'invalid',
    message: /no system role/,
  });
});
