import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join, resolve } from 'node:path';
import { quantizeModel } from '../learn/compress/quantize.ts';
import { writeModelGguf } from '../learn/model/export.ts';
import { openModel } from '../learn/model/open.ts';
import { connectDaemon } from './client.ts';
import { modelPath } from './model-path.ts';

export interface Imported {
  /** `name@N`: not promoted. */
  readonly version: string;
  readonly sha256: string;
  readonly parameters: number;
  readonly size_mb: number;
  readonly notes: readonly string[];
}

/**
 * Makes a version of a running daemon of a GGUF file or a model folder (written as GGUF first: f16, or `type`). The daemon copies it from this
 * machine's disk. It is not promoted.
 */
export async function run(options: { file: string; name?: string; type?: string; data?: string }): Promise<Imported> {
  const client = connectDaemon({ ...(options.data !== undefined && { data: options.data }) });
  const path = resolve(await modelPath(options.file));
  const checkpoint = await openModel(path);
  // The tokenizer is read here so that a model without a usable one is refused before anything is written.
  const tokens = checkpoint.tokenizer.vocabSize;
  const temporary = mkdtempSync(join(tmpdir(), 'learnd-import-'));
  try {
    let file = path;
    const notes: string[] = [];
    if (checkpoint.kind === 'folder' || options.type !== undefined) {
      const out = join(temporary, `${basename(path).replace(/\.gguf$/, '')}.gguf`);
      const written =
        options.type === undefined
          ? await writeModelGguf(checkpoint, out, { type: 'f16', source: checkpoint })
          : await quantizeModel(checkpoint, out, { type: options.type, source: checkpoint });
      file = written.path;
      notes.push(`written as ${options.type ?? 'f16'}, ${tokens} tokens`, ...written.notes);
    }
    const body = { file, ...(options.name !== undefined && { name: options.name }) };
    const made = (await client.post('/v1/admin/versions', body)) as Omit<Imported, 'notes'>;
    return { ...made, notes };
  } finally {
    rmSync(temporary, { recursive: true, force: true });
  }
}

export const human = (r: Imported): string =>
  [
    `${r.version}  ${r.parameters} parameters, ${r.size_mb.toFixed(1)} MB; promote it with: learnd promote ${r.version}`,
    ...r.notes.map(n => `note: ${n}`),
  ].join('\n');
