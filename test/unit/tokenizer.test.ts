import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import fc from 'fast-check';
import { readTokenizerJson, tokenizerJson } from '../../src/learn/model/tokenizer/hf-json.ts';
import type { PreName } from '../../src/learn/model/tokenizer/pretokenize.ts';

interface Expected {
  text: string;
  ids: number[];
  special: number[];
  decoded: string;
}
interface Golden {
  train: string[];
  small: Record<PreName, { tokenizer: Record<string, unknown>; texts: Expected[] }>;
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
    { numRuns: 300, seed: 7 },
  );
});
