import {
  existsSync,
  linkSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { basename, join } from 'node:path';
import { sleep } from '../../base/clock.ts';
import { LearndError } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';

/** Who started the server in a data folder: `pg.owner`, beside it. A pid alone may be anybody's by now. */
export interface Owner {
  readonly pid: number;
  /** Field 22 of /proc/PID/stat: clock ticks from boot to the start of the process. */
  readonly started: string | undefined;
}

const read = (path: string): string | undefined => {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined; // gone, or not ours to read: unknown either way
  }
};

/** undefined when the process does not exist, or has ended and only waits to be reaped. */
export function processStart(pid: number): string | undefined {
  const stat = read(`/proc/${pid}/stat`);
  // The name in parentheses may contain spaces: fields are counted after it. Field 3 is the state, 22 the start.
  const fields = stat?.slice(stat.lastIndexOf(')') + 2).split(' ');
  return fields === undefined || fields[0] === 'Z' || fields[0] === 'X' ? undefined : fields[19];
}

const alive = (owner: Owner): boolean => {
  const started = processStart(owner.pid);
  return started !== undefined && started === owner.started;
};

/** Is `pid` a PostgreSQL server of exactly this data folder? */
export function isServerOf(pid: number, folder: string): boolean {
  if (processStart(pid) === undefined) return false;
  const real = realpathSync(folder);
  try {
    return (
      basename(readlinkSync(`/proc/${pid}/exe`)).replace(' (deleted)', '') === 'postgres' &&
      readlinkSync(`/proc/${pid}/cwd`) === real
    );
  } catch {
    // Links of another user's process cannot be read; its command line can.
    const words = read(`/proc/${pid}/cmdline`)?.split('\0') ?? [];
    return basename(words[0] ?? '') === 'postgres' && words.includes(folder);
  }
}

/** The pid in `postmaster.pid`, whether or not it lives. */
export function postmasterPid(folder: string): number | undefined {
  const pid = Number(read(join(folder, 'postmaster.pid'))?.split('\n')[0]);
  return Number.isInteger(pid) && pid > 1 ? pid : undefined;
}

export const isReady = (folder: string, pid: number): boolean => {
  const lines = read(join(folder, 'postmaster.pid'))?.split('\n');
  return Number(lines?.[0]) === pid && lines?.[7]?.trim() === 'ready';
};

/**
 * Claims a data directory for this process; the returned function gives it back.
 * @throws LearndError('conflict') when the process that claimed it is alive.
 */
export function claim(ownerFile: string): () => void {
  const mine: Owner = { pid: process.pid, started: processStart(process.pid) };
  const temporary = `${ownerFile}.${process.pid}.tmp`;
  writeFileSync(temporary, JSON.stringify(mine), { mode: 0o600 });
  try {
    try {
      linkSync(temporary, ownerFile); // fails where the file exists: of two, one claims
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
      const owner = JSON.parse(read(ownerFile) ?? '{"pid":0}') as Owner;
      if (owner.pid === process.pid ? owner.started === mine.started : alive(owner))
        throw new LearndError('conflict', `another learnd (process ${owner.pid}) runs on this data directory`, {
          hint: 'Stop it first, or start this one with another --data',
          retriable: false,
          data: { pid: owner.pid },
        });
      renameSync(temporary, ownerFile);
    }
  } finally {
    rmSync(temporary, { force: true });
  }
  return () => rmSync(ownerFile, { force: true });
}

/**
 * Ends a server that a killed daemon left behind (it holds the folder's lock); the caller holds the claim, so nobody uses it.
 * `postmaster.pid` itself is never deleted: it is what keeps two servers off one folder.
 */
export async function endOrphan(folder: string, log: Log): Promise<void> {
  if (!existsSync(folder)) return;
  const pid = postmasterPid(folder);
  if (pid === undefined || !isServerOf(pid, folder)) return;
  log.warn('ending a PostgreSQL left behind by a killed daemon', { pid });
  const send = (signal: NodeJS.Signals) => {
    try {
      process.kill(pid, signal);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
    }
  };
  send('SIGQUIT');
  const started = Date.now();
  let killed = false;
  while (isServerOf(pid, folder)) {
    if (!killed && Date.now() - started > 8_000) {
      send('SIGKILL');
      killed = true;
    }
    if (Date.now() - started > 20_000)
      throw new LearndError('dependency', `process ${pid}, a PostgreSQL on this data directory, does not end`, {
        hint: 'Look at what it waits for (disk?), then end it by hand',
      });
    await sleep(20);
  }
}
