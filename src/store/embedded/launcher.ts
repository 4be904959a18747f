import { spawnSync } from 'node:child_process';
import { chownSync, lstatSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { userInfo } from 'node:os';
import { join } from 'node:path';
import { LearndError } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';

/**
 * PostgreSQL refuses to run as uid 0, and a container often has nothing else. As root it therefore runs in a user namespace of
 * its own where our uid is called something else (no account of its own, no chown); where namespaces are closed, as another uid
 * on a folder it owns. initdb, besides, wants its uid to have an account: 1000 has none in many images, and an ordinary user
 * given by number alone has none either, so the uid inside is one that the account file lists.
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

const PREFERRED = [1000, 65534];

/** A uid other than root's that has an account; nobody's where no file tells. */
function accountUid(): number {
  let text = '';
  try {
    text = readFileSync('/etc/passwd', 'utf8');
  } catch {
    return 65534; // an image without the file: initdb will say what it misses
  }
  const uids = text.split('\n').map(line => Number(line.split(':')[2]));
  return PREFERRED.find(uid => uids.includes(uid)) ?? uids.find(uid => uid > 0) ?? 65534;
}

const hasAccount = (): boolean => {
  try {
    userInfo();
    return true;
  } catch {
    return false; // getpwuid found nobody
  }
};

const DIE_TOO = ['setpriv', '--pdeathsig', 'INT', '--'];

const works = (command: readonly string[]): boolean =>
  spawnSync(command[0]!, [...command.slice(1), 'true'], { stdio: 'ignore', timeout: 5_000 }).status === 0;

/**
 * @param folder the server's data folder; one that exists keeps its owner.
 * @param namespaces false: as if user namespaces were closed
 */
export function chooseLauncher(folder: string, log: Log, namespaces = true): Launcher {
  const inside = accountUid();
  const namespace = ['unshare', '--user', `--map-user=${inside}`, `--map-group=${inside}`, '--'];
  if (process.getuid?.() !== 0) {
    const init = !hasAccount() && works(namespace) ? namespace : [];
    return { init, serve: works(DIE_TOO) ? DIE_TOO : [], owner: undefined };
  }
  const existing = statSync(folder, { throwIfNoEntry: false })?.uid;
  if (namespaces && (existing === undefined || existing === 0)) {
    if (works([...namespace, ...DIE_TOO]))
      return { init: namespace, serve: [...namespace, ...DIE_TOO], owner: undefined };
    if (works(namespace)) return { init: namespace, serve: namespace, owner: undefined };
  }
  const owner = existing === undefined || existing === 0 ? 65534 : existing;
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
