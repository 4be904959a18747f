import { createHash, randomBytes } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { type FileHandle, mkdir, open, readdir, rename, rm, stat } from 'node:fs/promises';
import { isAbsolute, join, resolve, sep } from 'node:path';
import { fileURLToPath } from 'node:url';
import { asLearndError, invalid, LearndError, laterVersion } from '../base/errors.ts';
import type { Blob } from '../learn/model/version.ts';

/** Immutable files named by their content: `blobs/<sha256>.<ext>`. Nothing is overwritten, so nothing needs a lock. */
export interface Artifacts {
  readonly root: string;
  /** Copies a file in; what is there already is not written again. `ext` without dot. */
  put(file: string, ext: string): Promise<Blob>;
  putBytes(bytes: Uint8Array, ext: string): Promise<Blob>;
  /** The absolute path. @throws LearndError('corrupt') when the file is gone or has another length. */
  path(blob: Blob): Promise<string>;
  /** Reads it all and compares the hash. @throws LearndError('corrupt') */
  verify(blob: Blob): Promise<void>;
}

const STALE_MS = 24 * 3_600_000;
const FULL = new Set(['ENOSPC', 'EDQUOT']);

/** A folder from `artifacts_url` (a path or file://…). @throws laterVersion for s3:// and other stores. */
export function artifactsFolder(url: string): string {
  if (url.startsWith('file://')) return fileURLToPath(url);
  const scheme = /^([a-z][a-z0-9+.-]*):\/\//i.exec(url)?.[1];
  if (scheme !== undefined) throw laterVersion(`an artifacts store at ${scheme}://`);
  return isAbsolute(url) ? url : resolve(url);
}

async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, 'r');
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}

/** Opens (and makes) the store; temporary files that killed writers left are removed once they are a day old. */
export async function openArtifacts(url: string): Promise<Artifacts> {
  const root = artifactsFolder(url);
  const blobs = join(root, 'blobs');
  const temporary = join(root, 'tmp');
  try {
    await mkdir(blobs, { recursive: true });
    await mkdir(temporary, { recursive: true });
  } catch (thrown) {
    throw failure(thrown, root);
  }
  for (const name of await readdir(temporary)) {
    const path = join(temporary, name);
    const found = await stat(path).catch(() => undefined); // another process may be cleaning too
    if (found && Date.now() - found.mtimeMs > STALE_MS) await rm(path, { force: true });
  }

  const write = async (chunks: AsyncIterable<Uint8Array>, ext: string): Promise<Blob> => {
    if (!/^[a-z0-9][a-z0-9.]{0,31}$/.test(ext)) throw invalid('ext', `"${ext}" is no file extension`);
    const temp = join(temporary, `${process.pid}-${randomBytes(8).toString('hex')}`);
    const hash = createHash('sha256');
    let bytes = 0;
    let out: FileHandle | undefined;
    try {
      out = await open(temp, 'wx', 0o644);
      for await (const chunk of chunks) {
        hash.update(chunk);
        bytes += chunk.byteLength;
        for (let at = 0; at < chunk.byteLength; ) at += (await out.write(chunk, at)).bytesWritten;
      }
      await out.sync();
      await out.close();
      out = undefined;
      const sha256 = hash.digest('hex');
      const file = `blobs/${sha256}.${ext}`;
      const final = join(root, file);
      const existing = await stat(final).catch(() => undefined); // absent is the usual case
      // One cut short by a disk fault is replaced: whoever has it open keeps what it had.
      if (existing?.size !== bytes) {
        await rename(temp, final);
        await syncFolder(blobs);
      }
      return { file, sha256, bytes };
    } catch (thrown) {
      throw failure(thrown, root, bytes);
    } finally {
      await out?.close().catch(() => undefined); // the first error is the one to tell
      await rm(temp, { force: true });
    }
  };

  const path = async (blob: Blob): Promise<string> => {
    const full = resolve(root, blob.file);
    if (!full.startsWith(blobs + sep))
      throw new LearndError('corrupt', `${blob.file} lies outside the artifacts store`);
    const found = await stat(full).catch(() => undefined); // absent, or unreadable: said below
    if (!found) throw corrupt(blob, 'is missing');
    if (found.size !== blob.bytes) throw corrupt(blob, `has ${found.size} bytes, not ${blob.bytes}`);
    return full;
  };
  const corrupt = (blob: Blob, what: string): LearndError =>
    new LearndError('corrupt', `${join(root, blob.file)} ${what}`, {
      hint: 'Restore it from a backup of the artifacts, or roll back to a version whose files are whole',
    });

  return {
    root,
    put: (file, ext) => write(contents(file), ext),
    putBytes: (bytes, ext) =>
      write(
        (async function* () {
          yield bytes;
        })(),
        ext,
      ),
    path,
    verify: async blob => {
      const hash = createHash('sha256');
      for await (const chunk of contents(await path(blob))) hash.update(chunk);
      if (hash.digest('hex') !== blob.sha256) throw corrupt(blob, 'does not have the content its name says');
    },
  };
}

/** A generator opens the file when it is read, not before: a stream that fails while nobody reads it ends the process. */
async function* contents(file: string): AsyncGenerator<Uint8Array> {
  yield* createReadStream(file, { highWaterMark: 1 << 20 }) as AsyncIterable<Buffer>;
}

function failure(thrown: unknown, root: string, written?: number): LearndError {
  const code = (thrown as NodeJS.ErrnoException).code;
  if (code !== undefined && FULL.has(code))
    return new LearndError(
      'dependency',
      `the disk of the artifacts store is full (${root}${written === undefined ? '' : `, after ${written} bytes`})`,
      { hint: 'Free space or set artifacts_url to a larger disk; nothing half-written was left', cause: thrown },
    );
  if (code === 'EACCES' || code === 'EROFS' || code === 'EPERM')
    return new LearndError('dependency', `cannot write to the artifacts store ${root}: ${(thrown as Error).message}`, {
      hint: 'Give this user the right to write there, or set artifacts_url',
      retriable: false,
      cause: thrown,
    });
  return asLearndError(thrown);
}
