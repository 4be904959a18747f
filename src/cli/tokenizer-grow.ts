import { join } from 'node:path';
import { growModel, writeModelGguf, writeSafetensors } from '../learn/model/export.ts';
import { textChunk, writeAtomically } from '../learn/model/formats/atomic-file.ts';
import { openModel } from '../learn/model/open.ts';
import { tokenizerJson } from '../learn/model/tokenizer/hf-json.ts';
import { modelPath } from './model-path.ts';
import { textLines } from './text-lines.ts';

export interface Grown {
  readonly vocab_size: number;
  readonly vocab_size_before: number;
  /** Fewer than asked for where nothing else occurs twice. */
  readonly added: number;
  /** The first of them. */
  readonly tokens: readonly string[];
  /** What the files take, in tokens. */
  readonly text_tokens: number;
  readonly text_tokens_before: number;
  readonly out: string;
  readonly files: readonly string[];
  readonly notes: readonly string[];
}

/** A model whose vocabulary knows the words of the files; its format stays (GGUF, or a folder for transformers). */
export async function run(options: {
  model: string;
  files: readonly string[];
  add: number;
  out: string;
}): Promise<Grown> {
  const texts = options.files.flatMap(file => textLines(file));
  const checkpoint = await openModel(await modelPath(options.model));
  const grown = growModel(checkpoint, texts, options.add);
  const parts = { ...checkpoint, config: grown.config, weights: grown.weights, tokenizer: grown.tokenizer };
  const files: string[] = [];
  let notes: readonly string[] = [];
  if (checkpoint.kind === 'gguf') {
    const written = await writeModelGguf(parts, join(options.out, 'model.gguf'), { type: 'keep', source: checkpoint });
    const json = textChunk(JSON.stringify(tokenizerJson(grown.tokenizer.spec)));
    const tokenizer = await writeAtomically(join(options.out, 'tokenizer.json'), json);
    files.push(written.path, tokenizer.path);
    notes = written.notes;
  } else files.push(...(await writeSafetensors(parts, options.out)).map(file => file.path));
  const count = (of: { encode(text: string): number[] }): number =>
    texts.reduce((sum, text) => sum + of.encode(text).length, 0);
  return {
    vocab_size: grown.config.vocabSize,
    vocab_size_before: checkpoint.config.vocabSize,
    added: grown.added.length,
    tokens: grown.added.slice(0, 50).map(token => token.text),
    text_tokens: count(grown.tokenizer),
    text_tokens_before: count(checkpoint.tokenizer),
    out: options.out,
    files,
    notes,
  };
}

export const human = (r: Grown): string =>
  [
    `${r.vocab_size} tokens (${r.added} new) in ${r.out}`,
    `the files take ${r.text_tokens} tokens, ${r.text_tokens_before} before`,
    `first: ${r.tokens
      .slice(0, 12)
      .map(t => JSON.stringify(t))
      .join(' ')}`,
    ...r.notes.map(n => `note: ${n}`),
  ].join('\n');
