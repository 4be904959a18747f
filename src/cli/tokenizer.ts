import { textChunk, writeAtomically } from '../learn/model/formats/atomic-file.ts';
import { openModel } from '../learn/model/open.ts';
import { tokenizerJson } from '../learn/model/tokenizer/hf-json.ts';
import { trainBpe } from '../learn/model/tokenizer/train.ts';
import { textLines } from './text-lines.ts';

/** `tokenizer encode`: each line, trimmed, if not empty, is a text; no special tokens are added. */
export async function encode(options: { model: string; file: string }): Promise<{ ids: number[][] }> {
  const { tokenizer } = await openTokenizer(options.model);
  return { ids: textLines(options.file).map(line => tokenizer.encode(line)) };
}

async function openTokenizer(model: string) {
  const { modelPath } = await import('./model-path.ts');
  return openModel(await modelPath(model));
}

/** `tokenizer train`: byte-level BPE over the lines of the files. */
export async function train(options: {
  files: readonly string[];
  vocab: number;
  out: string;
}): Promise<{ vocab_size: number; file: string }> {
  const texts = options.files.flatMap(file => textLines(file));
  const { spec } = trainBpe(texts, options.vocab, ['<|im_start|>', '<|im_end|>']);
  await writeAtomically(options.out, textChunk(JSON.stringify(tokenizerJson(spec))));
  return { vocab_size: spec.tokens.length, file: options.out };
}
