import { textChunk, writeAtomically } from '../learn/model/formats/atomic-file.ts';
import { openModel } from '../learn/model/open.ts';
import { tokenizerJson } from '../learn/model/tokenizer/hf-json.ts';
import { preNamed } from '../learn/model/tokenizer/pretokenize.ts';
import { trainBpe } from '../learn/model/tokenizer/train.ts';
import { modelPath } from './model-path.ts';
import { textLines } from './text-lines.ts';

/** `tokenizer encode`: each line, trimmed, if not empty, is a text; no special tokens are added. */
export async function encode(options: { model: string; file: string }): Promise<{ ids: number[][] }> {
  const { tokenizer } = await openModel(await modelPath(options.model));
  return { ids: textLines(options.file).map(line => tokenizer.encode(line)) };
}

/** `tokenizer train`: byte-level BPE over the lines of the files. */
export async function train(options: {
  files: readonly string[];
  vocab: number;
  /** How text is cut before merging; default smollm (digits one by one, then GPT-2's rule). */
  pre?: string;
  /** Control tokens, after the merges: the first begins a text, the second ends one; one alone does both. */
  special?: readonly string[];
  out: string;
}): Promise<{ vocab_size: number; file: string }> {
  const texts = options.files.flatMap(file => textLines(file));
  const pre = preNamed(options.pre ?? 'smollm', '--pre');
  const tokenizer = trainBpe(texts, options.vocab, options.special ?? [], { pre });
  await writeAtomically(options.out, textChunk(JSON.stringify(tokenizerJson(tokenizer.spec))));
  return { vocab_size: tokenizer.vocabSize, file: options.out };
}
