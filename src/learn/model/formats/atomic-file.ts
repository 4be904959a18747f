import { createHash, randomUUID } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { mkdir, open, rename, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { LearndError } from '../../../base/errors.ts';

export interface WrittenFile {
  readonly path: string;
  readonly sha256: string;
  readonly bytes: number;
}

/**
 * Writes a file whole or not at all: into a temporary neighbour, flushed to the disk, then renamed, then the folder flushed.
 * The chunks are hashed on their way. On any failure the temporary file is removed and the old one, if any, stays.
 * @param mode permissions of the new file; 0o600 for what nobody else may read
 */
export async function writeAtomically(
  path: string,
  chunks: Iterable<Uint8Array> | AsyncIterable<Uint8Array>,
  mode = 0o666,
): Promise<WrittenFile> {
  const temporary = `${path}.${randomUUID()}.tmp`;
  const hash = createHash('sha256');
  let bytes = 0;
  try {
    await mkdir(dirname(path), { recursive: true });
    const file = await open(temporary, 'wx', mode);
    try {
      for await (const chunk of chunks) {
        hash.update(chunk);
        let done = 0;
        while (done < chunk.length) done += (await file.write(chunk, done)).bytesWritten;
        bytes += chunk.length;
      }
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, path);
    await syncFolder(dirname(path));
  } catch (thrown) {
    await rm(temporary, { force: true }).catch(() => undefined); // the first error is the one to tell
    throw diskError(path, thrown);
  }
  return { path, sha256: hash.digest('hex'), bytes };
}

/** Makes a rename in `folder` durable. */
export async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

function diskError(path: string, thrown: unknown): unknown {
  const code = (thrown as NodeJS.ErrnoException | undefined)?.code;
  if (code === undefined || thrown instanceof LearndError) return thrown;
  const full = code === 'ENOSPC' || code === 'EDQUOT';
  return new LearndError('dependency', `cannot write ${path}: ${(thrown as Error).message}`, {
    hint: full ? 'Free space on the disk, or set another data directory.' : 'Check that the folder may be written.',
    cause: thrown,
  });
}

/** Bytes of text or JSON, as one chunk. */
export const textChunk = (text: string): Uint8Array[] => [new TextEncoder().encode(text)];

export async function sha256OfFile(path: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 })) hash.update(chunk as Uint8Array);
  return hash.digest('hex');
}
