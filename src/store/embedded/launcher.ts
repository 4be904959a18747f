import { spawnSync } from 'node:child_process';
import { chownSync, lstatSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { LearndError } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';

/**
 * PostgreSQL refuses to run as uid 0, and a container often has nothing else. As root it therefore runs in a user namespace of
 * its own where our uid is called 1000 (no account, no chown); where namespaces are closed, as uid 65534 on a folder it owns.
 * `--pdeathsig INT`: when this process dies, however it dies, the kernel asks the server for a fast shutdown.
 */
export interface Launcher {
  /** Put before `initdb …`. */
  readonly init: readonly string[];
  /** Put before `postgres …`; it execs, so the child's pid is the server's. */
  readonly serve: readonly string[];
  /** The uid the data folder must belong to; undefined: ours. */
  readonly owner: number | undefined;
}

const NOBODY = 65534;
const NAMESPACE = ['unshare', '--user', '--map-user=1000', '--map-group=1000', '--'];
const DIE_TOO = ['setpriv', '--pdeathsig', 'INT', '--'];

const works = (command: readonly string[]): boolean =>
  spawnSync(command[0]!, [...command.slice(1), 'true'], { stdio: 'ignore', timeout: 5_000 }).status === 0;

/**
 * @param folder the server's data folder; one that exists keeps its owner.
 * @param namespaces false: as if user namespaces were closed
 */
export function chooseLauncher(folder: string, log: Log, namespaces = true): Launcher {
  if (process.getuid?.() !== 0) return { init: [], serve: works(DIE_TOO) ? DIE_TOO : [], owner: undefined };
  const existing = statSync(folder, { throwIfNoEntry: false })?.uid;
  if (namespaces && (existing === undefined || existing === 0)) {
    if (works([...NAMESPACE, ...DIE_TOO]))
      return { init: NAMESPACE, serve: [...NAMESPACE, ...DIE_TOO], owner: undefined };
    if (works(NAMESPACE)) return { init: NAMESPACE, serve: NAMESPACE, owner: undefined };
  }
  const owner = existing === undefined || existing === 0 ? NOBODY : existing;
  const drop = ['setpriv', '--reuid', String(owner), '--regid', String(owner), '--clear-groups'];
  if (!works([...drop, '--']))
    throw new LearndError(
      'dependency',
      'PostgreSQL cannot run as root, and neither unshare nor setpriv can give it another uid',
      {
        hint: 'Start learnd as an ordinary user, install util-linux, or set DATABASE_URL',
        retriable: false,
      },
    );
  log.info('no user namespaces here: the embedded PostgreSQL runs under its own uid', { uid: owner });
  const dieToo = works([...drop, ...DIE_TOO.slice(1)]);
  return { init: [...drop, '--'], serve: dieToo ? [...drop, ...DIE_TOO.slice(1)] : [...drop, '--'], owner };
}

/** Gives a folder and all below it to the launcher's uid; nothing to do where it has it. */
export function giveTo(launcher: Launcher, folder: string): void {
  const { owner } = launcher;
  if (owner === undefined || statSync(folder).uid === owner) return;
  const walk = (path: string): void => {
    if (lstatSync(path).isDirectory()) for (const entry of readdirSync(path)) walk(join(path, entry));
    chownSync(path, owner, owner);
  };
  walk(folder);
}
