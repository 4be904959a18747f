import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { sleep } from '../base/clock.ts';
import { LearndError } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import { embeddedBinaries } from './embedded/binaries.ts';
import { chooseLauncher, giveTo, type Launcher } from './embedded/launcher.ts';
import { claim, endOrphan, isReady, isServerOf, postmasterPid, processStart } from './embedded/orphan.ts';

/** A PostgreSQL of our own, as a child process; it is started again whenever it dies, on the same port. */
export interface EmbeddedPostgres {
  /** postgres://learnd:PASSWORD@127.0.0.1:PORT/postgres */
  readonly url: string;
  /** Of the server running now; undefined while it is being started again. */
  readonly pid: number | undefined;
  /** Fast shutdown (clients are cut off, the data is checkpointed); resolves when the process is gone. */
  stop(): Promise<void>;
}

export interface EmbeddedOptions {
  /** The data directory; the server's files are `pg/`, `pg.password` and `pg.owner` in it. */
  data: string;
  log: Log;
  /** Further server settings (`-c name=value`). */
  settings?: Readonly<Record<string, string>>;
  /** Folder with initdb and postgres; default: the embedded package. */
  binaries?: string;
  /** Further words for initdb, on a first start. */
  initdb?: readonly string[];
  /** false: as root, do not use a user namespace even where there are some. */
  namespaces?: boolean;
}

const USER = 'learnd';
const SETTINGS: Readonly<Record<string, string>> = {
  listen_addresses: '127.0.0.1',
  unix_socket_directories: '',
  max_connections: '60',
  shared_buffers: '64MB',
  max_wal_size: '256MB',
  wal_level: 'minimal',
  max_wal_senders: '0',
  jit: 'off',
  timezone: 'UTC',
  log_timezone: 'UTC',
  log_checkpoints: 'off',
};

/** The server's environment: PG… variables meant for clients would change it. */
const environment = (): NodeJS.ProcessEnv => ({ PATH: process.env.PATH, LC_ALL: 'C', TZ: 'UTC' });

/** Written whole or not at all, readable by us only. */
function writeSecret(path: string, text: string): void {
  const temporary = `${path}.${process.pid}.tmp`;
  const file = openSync(temporary, 'w', 0o600);
  writeFileSync(file, text);
  fsyncSync(file);
  closeSync(file);
  renameSync(temporary, path);
}

function syncFolder(path: string): void {
  const folder = openSync(path, 'r');
  fsyncSync(folder);
  closeSync(folder);
}

const freePort = (): Promise<number> =>
  new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const address = server.address();
      server.close(() => resolve((address as { port: number }).port));
    });
  });

/** initdb into a folder of its own, then one rename: a folder called `pg` is always a finished one. */
function initialize(options: {
  data: string;
  folder: string;
  binaries: string;
  launcher: Launcher;
  password: string;
  words: readonly string[];
}) {
  const { data, folder, launcher } = options;
  for (const left of readdirSync(data)) {
    const by = /^pg\.(?:init|secret)-(\d+)$/.exec(left)?.[1];
    if (by !== undefined && processStart(Number(by)) === undefined) rmSync(join(data, left), { recursive: true });
  }
  const fresh = join(data, `pg.init-${process.pid}`);
  // initdb reads the password from a file that the uid it runs under must be able to read, and nobody else may.
  const secret = join(data, `pg.secret-${process.pid}`);
  try {
    mkdirSync(fresh, { mode: 0o700 });
    mkdirSync(secret, { mode: 0o700 });
    writeFileSync(join(secret, 'password'), options.password, { mode: 0o600 });
    for (const path of [fresh, secret]) giveTo(launcher, path);
    const words = [
      ...launcher.init,
      join(options.binaries, 'initdb'),
      ...['-D', fresh, '-U', USER, '--locale=C', '-E', 'UTF8', '--no-instructions'],
      ...['--auth-host=scram-sha-256', '--auth-local=scram-sha-256', `--pwfile=${join(secret, 'password')}`],
      ...options.words,
    ];
    const run = spawnSync(words[0]!, words.slice(1), { encoding: 'utf8', env: environment(), cwd: data });
    if (run.status !== 0) {
      const said = run.error?.message ?? `${run.stderr}${run.stdout}`.trim().split('\n').slice(-4).join('; ');
      throw new LearndError('dependency', `the embedded PostgreSQL could not be set up in ${data}: ${said}`, {
        hint: 'Is the disk full, or the folder not writable? DATABASE_URL names a PostgreSQL server instead',
        retriable: false,
        cause: run.error,
      });
    }
    renameSync(fresh, folder);
    syncFolder(data);
  } finally {
    rmSync(secret, { recursive: true, force: true });
    rmSync(fresh, { recursive: true, force: true });
  }
}

/**
 * Starts the server in `data`, made on the first start: 0.6 s then, 0.1 s later. Recovers from a killed first start and from
 * a server left behind by a killed daemon.
 * @throws LearndError('dependency') with what the server said, LearndError('conflict') when another daemon uses the folder.
 */
export async function startEmbedded(options: EmbeddedOptions): Promise<EmbeddedPostgres> {
  mkdirSync(options.data, { recursive: true });
  const release = claim(join(options.data, 'pg.owner'));
  try {
    return await startClaimed(options, release);
  } catch (error) {
    release();
    throw error;
  }
}

async function startClaimed(options: EmbeddedOptions, release: () => void): Promise<EmbeddedPostgres> {
  const { data } = options;
  const log = options.log.child('postgres');
  const binaries = options.binaries ?? embeddedBinaries();
  const folder = join(data, 'pg');
  const passwordFile = join(data, 'pg.password');
  await endOrphan(folder, log);
  const launcher = chooseLauncher(folder, log, options.namespaces);
  if (!existsSync(passwordFile)) {
    if (existsSync(folder))
      throw new LearndError('corrupt', `${passwordFile} is missing, and the database in ${folder} was made with it`, {
        hint: 'Restore the file from a backup of the data directory',
      });
    writeSecret(passwordFile, randomBytes(24).toString('base64url'));
  }
  const password = readFileSync(passwordFile, 'utf8').trim();
  if (!existsSync(folder)) initialize({ data, folder, binaries, launcher, password, words: options.initdb ?? [] });
  giveTo(launcher, folder);

  const settings = Object.entries({ ...SETTINGS, ...options.settings }).flatMap(([k, v]) => ['-c', `${k}=${v}`]);
  const stopping = new AbortController();
  let child: ChildProcess | undefined;

  /** One try; resolves when the server takes connections, with what it said when it did not come up. */
  const launch = async (port: number): Promise<{ up: true } | { up: false; said: string[] }> => {
    const words = [...launcher.serve, join(binaries, 'postgres'), '-D', folder, '-c', `port=${port}`, ...settings];
    const started = spawn(words[0]!, words.slice(1), {
      stdio: ['ignore', 'ignore', 'pipe'],
      env: environment(),
      cwd: data,
    });
    const said: string[] = [];
    let failed: Error | undefined;
    started.once('error', error => {
      failed = error;
    });
    createInterface({ input: started.stderr! }).on('line', line => {
      said.push(line);
      if (said.length > 30) said.shift();
      if (
        /(FATAL|PANIC):/.test(line) &&
        !/the database system is|terminating connection|authentication failed/.test(line)
      )
        log.warn(line.replace(/^.*?(FATAL|PANIC): */, ''));
      else log.debug(line);
    });
    // The server must not keep a finished program alive; what waits for it holds it (below, and in stop).
    started.unref();
    (started.stderr as unknown as { unref(): void }).unref();
    const ended = () => failed !== undefined || started.exitCode !== null || started.signalCode !== null;
    while (!ended()) {
      if (started.pid !== undefined && isReady(folder, started.pid)) {
        child = started;
        started.once('exit', (code, signal) => {
          child = undefined;
          if (!stopping.signal.aborted) void restart(code, signal);
        });
        return { up: true };
      }
      await sleep(10);
    }
    await sleep(10); // its last words are still in the pipe
    if (failed) said.push(failed.message);
    return { up: false, said };
  };

  const start = async (choose: () => Promise<number>): Promise<number> => {
    const begun = Date.now();
    for (;;) {
      const port = await choose();
      const outcome = await launch(port);
      if (outcome.up) return port;
      const text = outcome.said.join('\n');
      const patient = Date.now() - begun < 15_000 && !stopping.signal.aborted;
      // The children of a killed server hold its shared memory for a moment; a port may be taken between choosing and binding.
      if (patient && /pre-existing shared memory block|could not bind|Address already in use/.test(text)) {
        await sleep(250);
        continue;
      }
      const holder = postmasterPid(folder);
      if (/lock file ".*postmaster\.pid" already exists/.test(text) && holder !== undefined) {
        if (isServerOf(holder, folder)) await endOrphan(folder, log);
        if (patient) {
          await sleep(250);
          continue;
        }
        throw new LearndError(
          'conflict',
          `${join(folder, 'postmaster.pid')} names process ${holder}, which lives and is no PostgreSQL of this folder`,
          {
            hint: 'Start again (its number will differ), or delete that one file once you are sure no server uses the folder',
          },
        );
      }
      const fatal = outcome.said.filter(line => /FATAL|PANIC|ERROR|HINT/.test(line));
      throw new LearndError(
        'dependency',
        `the embedded PostgreSQL did not start: ${(fatal.length > 0 ? fatal : outcome.said).slice(-3).join('; ')}`,
        { retriable: true },
      );
    }
  };

  let port = 0;
  const restart = async (code: number | null, signal: NodeJS.Signals | null): Promise<void> => {
    log.warn('the server ended; starting it again', { code, signal });
    for (let wait = 100; !stopping.signal.aborted; wait = Math.min(5_000, wait * 2)) {
      await sleep(wait, stopping.signal);
      if (stopping.signal.aborted) return;
      try {
        restarting = start(async () => port);
        await restarting;
        log.info('the server is back', { port });
        return;
      } catch (error) {
        log.error('the server cannot be started again yet', { error });
      }
    }
  };
  let restarting: Promise<unknown> = Promise.resolve();

  port = await start(freePort);
  log.debug('up', { port, pid: child?.pid });

  let stopped: Promise<void> | undefined;
  const stop = async (): Promise<void> => {
    stopping.abort();
    await restarting.catch(() => undefined);
    const running = child;
    if (running) {
      running.ref();
      const gone = new AbortController();
      running.once('exit', () => gone.abort());
      for (const [signal, ms] of [
        ['SIGINT', 15_000],
        ['SIGQUIT', 5_000],
        ['SIGKILL', 5_000],
      ] as const) {
        if (running.exitCode !== null || running.signalCode !== null) break;
        running.kill(signal);
        await sleep(ms, gone.signal);
      }
    }
    release();
  };
  return {
    url: `postgres://${USER}:${encodeURIComponent(password)}@127.0.0.1:${port}/postgres`,
    get pid() {
      return child?.pid;
    },
    stop: () => {
      stopped ??= stop();
      return stopped;
    },
  };
}
