import { basename, isAbsolute } from 'node:path';
import { invalid, LearndError } from '../../base/errors.ts';
import { checkModelFile } from '../../learn/llama/preflight.ts';
import { describeModel } from '../../learn/model/describe.ts';
import type { Card } from '../../learn/model/version.ts';
import type { Artifacts } from '../../store/artifacts.ts';
import type { Database } from '../../store/database.ts';
import type { VersionRow } from '../../store/versions.ts';
import { createVersion } from './versions.ts';

/**
 * Registers a GGUF file from elsewhere as a version of its own line: no parent, no heads, no figures (they are measured by the first round
 * that starts from it). It is copied into the artifacts and checked as a served file is; it answers nobody until it is asked for by
 * number, or promoted.
 * @throws LearndError('not_found' | 'corrupt' | 'invalid') when it is not a model that learnd trains and serves.
 */
export async function importVersion(
  parts: { db: Database; artifacts: Artifacts; name: string },
  file: string,
): Promise<VersionRow> {
  const { db, artifacts, name } = parts;
  if (!isAbsolute(file)) throw invalid('file', `${file} is not an absolute path on the daemon's machine`);
  if (!file.endsWith('.gguf')) {
    throw new LearndError('invalid', `${file} is not a GGUF file`, {
      field: 'file',
      hint: 'learnd import makes one of a folder first.',
    });
  }
  await checkModelFile(file);
  const facts = await describeModel(file);
  const blob = await artifacts.put(file, 'gguf');
  const card: Card = {
    perplexity: null,
    perplexity_standard_error: null,
    f1: null,
    parameters: facts.parameters,
    size_mb: blob.bytes / 1e6,
    tokens_per_second: null,
  };
  const manifest = {
    base: { name: `imported: ${basename(file)}`, sha256: blob.sha256 },
    model: { ...blob, ...facts },
    heads: {},
  };
  return db.tx(tx =>
    createVersion(tx, artifacts, { name, manifest, parent: null, round: null, epsilon: 0, evaluation: card }),
  );
}
