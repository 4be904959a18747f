/**
 * The peers' Python environment: built on first use in the user's cache folder from requirements.txt, pinned, so that
 * anyone can repeat a comparison. About 5 GB and several minutes, once.
 */
import { execFileSync, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { LearndError } from '../../src/base/errors.ts';

const REQUIREMENTS = join(import.meta.dirname, 'requirements.txt');

/**
 * Path of a Python that has the pinned packages. `LEARND_PEER_PYTHON` names one that exists already; its versions of the
 * packages are checked against requirements.txt.
 * @throws LearndError('dependency') when it cannot be built or has other versions.
 */
export function peerPython(log: (line: string) => void): string {
  const given = process.env.LEARND_PEER_PYTHON;
  if (given !== undefined) {
    checkVersions(given);
    return given;
  }
  const wanted = readFileSync(REQUIREMENTS, 'utf8');
  const cache = process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache');
  const folder = join(cache, 'learnd', `peers-${createHash('sha256').update(wanted).digest('hex').slice(0, 12)}`);
  const python = join(folder, 'bin', 'python');
  if (existsSync(join(folder, 'complete'))) return python;
  log(`peers: building ${folder} (several minutes, once)`);
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(join(folder, '..'), { recursive: true });
  try {
    execFileSync('python3', ['-m', 'venv', folder], { stdio: 'pipe' });
    execFileSync(python, ['-m', 'pip', 'install', '--quiet', '-r', REQUIREMENTS], { stdio: 'pipe' });
  } catch (cause) {
    throw new LearndError('dependency', "the peers' Python environment cannot be built", {
      hint: `It needs Python 3.11 or later with venv, and a package index: pip install -r ${REQUIREMENTS}`,
      retriable: false,
      cause,
    });
  }
  writeFileSync(join(folder, 'complete.part'), wanted);
  renameSync(join(folder, 'complete.part'), join(folder, 'complete'));
  return python;
}

function checkVersions(python: string): void {
  const pins = readFileSync(REQUIREMENTS, 'utf8')
    .split('\n')
    .filter(line => line.includes('=='));
  const script =
    'import sys\nfrom importlib.metadata import version\n' +
    'for pin in sys.argv[1:]:\n  name, wanted = pin.split("==")\n  have = version(name).split("+")[0]\n' +
    '  assert have == wanted, f"{name} {have}, not {wanted}"';
  try {
    execFileSync(python, ['-c', script, ...pins], { stdio: 'pipe' });
  } catch (cause) {
    throw new LearndError('dependency', `LEARND_PEER_PYTHON (${python}) lacks the pinned packages`, {
      hint: `Unset it to have them installed in the cache folder, or: pip install -r ${REQUIREMENTS}`,
      retriable: false,
      cause,
    });
  }
}

/** A program that answers one JSON line for each JSON line it is sent, alive between measurements (a round of the bench each). */
export interface Peer {
  ask<T>(question: unknown): Promise<T>;
  close(): Promise<void>;
}

/** Starts `program first ...args`. `threads` sets every pool that PyTorch has. */
export function startPeer(program: string, first: string, args: readonly string[], threads: number): Peer {
  const pools = { OMP_NUM_THREADS: String(threads), MKL_NUM_THREADS: String(threads), TOKENIZERS_PARALLELISM: 'false' };
  const child = spawn(program, [first, ...args], {
    stdio: ['pipe', 'pipe', 'inherit'],
    env: { ...process.env, ...pools, PYTHONWARNINGS: 'ignore', TF_CPP_MIN_LOG_LEVEL: '3' },
  });
  const answers = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const ended = new Promise<void>(resolve => child.once('exit', () => resolve()));
  return {
    ask: async question => {
      child.stdin.write(`${JSON.stringify(question)}\n`);
      const answer = await answers.next();
      if (answer.done) throw new LearndError('dependency', `${program} ${first} ended: see its messages above`);
      return JSON.parse(answer.value);
    },
    close: async () => {
      child.stdin.end();
      await ended;
    },
  };
}
