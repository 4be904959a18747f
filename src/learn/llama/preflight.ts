/**
 * llama.cpp refuses most damaged files, but on some it ends the whole process: of 200 tiny models with 1 to 3 bytes of the header
 * changed, 20 aborted it (a dimension of 0, an absurd count that exhausts memory, two tokens alike). So files are first read by our
 * own bounded reader, which throws; then none of 490 (250 models, 120 adapters, 120 feature models) did.
 */
import { asLearndError, LearndError } from '../../base/errors.ts';
import { GgufFile } from '../model/formats/gguf-read.ts';
import { openModel } from '../model/open.ts';

const damaged = (path: string, what: string, cause?: unknown): LearndError =>
  new LearndError('corrupt', `${path}: ${what}`, {
    hint: 'The file is damaged or incomplete: fetch or export it again.',
    retriable: false,
    cause,
  });

/** Throws 'corrupt'. A sound model of a family that learnd does not train passes: llama.cpp may well serve it. */
export async function checkModelFile(path: string): Promise<void> {
  const file = new GgufFile(path);
  const tokens = file.metadata.get('tokenizer.ggml.tokens')?.value;
  if (!Array.isArray(tokens) || tokens.length === 0) throw damaged(path, 'it has no vocabulary');
  if (new Set(tokens).size !== tokens.length) throw damaged(path, 'two tokens of the vocabulary are the same');
  const rows = file.tensors.get('token_embd.weight')?.shape[0];
  if (rows !== tokens.length) throw damaged(path, `${tokens.length} tokens, but ${rows ?? 'no'} embeddings`);
  try {
    await openModel(path);
  } catch (thrown) {
    const error = asLearndError(thrown);
    if (error.code !== 'invalid') throw damaged(path, error.message, thrown);
  }
}

/** Throws 'corrupt'. */
export function checkAdapterFile(path: string): void {
  const file = new GgufFile(path);
  const type = file.metadata.get('general.type')?.value;
  if (type !== 'adapter') throw damaged(path, `its type is ${String(type)}, not adapter`);
  if (file.tensors.size === 0) throw damaged(path, 'it has no tensors');
}
