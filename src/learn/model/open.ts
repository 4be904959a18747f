import { statSync } from 'node:fs';
import { LearndError } from '../../base/errors.ts';
import { type GgufCheckpoint, openGguf } from './formats/gguf-checkpoint.ts';
import { type FolderCheckpoint, openFolder } from './formats/hf-folder.ts';

export type OpenedModel = GgufCheckpoint | FolderCheckpoint;

/**
 * Opens a model from disk: a GGUF file, or a folder with config.json, *.safetensors and tokenizer.json. Headers are read and
 * checked; weights are read on demand. Nothing has to be closed.
 * Throws LearndError: 'not_found', 'corrupt' (file, field, offset) or 'invalid' (a model of another family).
 */
export async function openModel(path: string): Promise<OpenedModel> {
  const stat = statSync(path, { throwIfNoEntry: false });
  if (stat === undefined) {
    throw new LearndError('not_found', `there is no model at ${path}`, {
      hint: 'Name a GGUF file, or a folder with config.json, safetensors and tokenizer.json.',
      retriable: false,
    });
  }
  return stat.isDirectory() ? openFolder(path) : openGguf(path);
}
