import { createHash } from 'node:crypto';
import { type FSWatcher, watch } from 'node:fs';
import { mkdir, open, readFile, rename, rm } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { LearndError, oneLine } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';
import { type Loop, startLoop } from '../../base/loop.ts';
import type { Settings } from '../../base/settings.ts';
import type { Database } from '../../store/database.ts';
import { isNews, newestPolicy, type PolicyRow, type PolicySource, storePolicy } from '../../store/policies.ts';
import type { PolicySettings } from './collect.ts';
import { parsePolicy, policyCheck, showFinding } from './parse.ts';
import type { Policy } from './policy.ts';
import type { Finding } from './source.ts';

/** The policy that ships with learnd, in force where a deployment has none. */
export const DEFAULT_POLICY_FILE = resolve(import.meta.dirname, '../../../config/policies.yaml');

/** Where a deployment's policy stands: `policy.file`, else policies.yaml beside the settings file, else below config/. */
export const policyFile = (settings: Pick<Settings, 'policy' | 'file'>, cwd = process.cwd()): string =>
  resolve(
    cwd,
    settings.policy.file ??
      (settings.file === undefined ? 'config/policies.yaml' : join(dirname(settings.file), 'policies.yaml')),
  );

export interface ActivePolicy {
  /** Id in table `policies`. */
  readonly id: number;
  readonly source: PolicySource;
  readonly policy: Policy;
}

export interface PolicyWatch {
  /** The policy in force. */
  current(): ActivePolicy;
  /** Mistakes of the newest edit, where that is not the one in force. */
  problem(): { readonly file: string; readonly findings: readonly Finding[] } | undefined;
  /** Reads file and store now. */
  refresh(): Promise<ActivePolicy>;
  stop(): Promise<void>;
}

export interface WatchOptions {
  readonly file: string;
  readonly db: Database;
  readonly settings: PolicySettings;
  readonly log: Log;
  /** The file is also read this often: file events get lost on network file systems and when a folder is replaced. */
  readonly everyMs?: number;
  readonly onChange?: (active: ActivePolicy) => void;
}

const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex');

/** The file's text; undefined where there is none. */
async function textOf(file: string): Promise<string | undefined> {
  try {
    return await readFile(file, 'utf8');
  } catch (thrown) {
    if ((thrown as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw new LearndError('dependency', `cannot read the policy file ${file}: ${(thrown as Error).message}`, {
      cause: thrown,
    });
  }
}

/** Stores an accepted text as the newest version. */
const accept = (db: Database, policy: Policy, source: PolicySource): Promise<PolicyRow> =>
  db.tx(tx => storePolicy(tx, { text: policy.text, sha256: policy.sha256, source }));

/**
 * Keeps the policy in force: the newest row of `policies`. An edit of the file becomes the newest row when it is valid; a bad
 * one is logged with line and column, once, and changes nothing. A change over HTTP on any node is a new row, seen here likewise.
 * @throws LearndError('dependency') when the store cannot be reached at the start.
 */
export async function watchPolicy(options: WatchOptions): Promise<PolicyWatch> {
  const { file, db, settings } = options;
  const log = options.log.child('policy');
  let active: ActivePolicy | undefined;
  let problem: { file: string; findings: readonly Finding[] } | undefined;
  /** sha256 of the file's text that was judged last: a bad edit is reported once. */
  let judged: string | undefined;

  const readFileEdit = async (): Promise<void> => {
    const text = await textOf(file);
    if (text === undefined) return;
    const hash = sha256(text);
    if (hash === judged) return;
    if (!(await isNews(db, hash))) {
      judged = hash;
      problem = undefined;
      return;
    }
    const { policy, findings } = policyCheck(text, { settings });
    for (const finding of findings) if (finding.severity === 'warning' && policy) log.warn(showFinding(file, finding));
    if (policy) {
      await accept(db, policy, 'file');
      problem = undefined;
    } else {
      const errors = findings.filter(f => f.severity === 'error');
      for (const finding of errors) log.error(showFinding(file, finding));
      log.error(
        `${file} has ${errors.length === 1 ? 'a mistake' : `${errors.length} mistakes`}: the last good policy stays in force`,
      );
      problem = { file, findings };
    }
    judged = hash;
  };

  const readStore = async (): Promise<ActivePolicy> => {
    let row = await newestPolicy(db);
    if (!row) {
      const text = await readFile(DEFAULT_POLICY_FILE, 'utf8');
      row = await accept(db, parsePolicy(text, { file: DEFAULT_POLICY_FILE }), 'default');
    }
    if (active?.id === row.id) return active;
    // Settings may have changed since the text was accepted (a task or a source gone): then it is judged without them, and the
    // round itself refuses what it cannot do.
    const policy = policyCheck(row.text, { settings }).policy ?? parsePolicy(row.text, { file: `policy ${row.id}` });
    active = { id: row.id, source: row.source, policy };
    log.info('in force', { id: row.id, source: row.source, rules: policy.rules.length });
    options.onChange?.(active);
    return active;
  };

  const refresh = async (): Promise<ActivePolicy> => {
    await readFileEdit();
    return readStore();
  };

  await refresh();
  const loop: Loop = startLoop({
    name: 'policy file',
    everyMs: options.everyMs ?? 1000,
    turn: async () => {
      await refresh();
    },
    onError: error => log.warn(`cannot look for a new policy: ${oneLine(error)}`),
  });
  const watcher = watchFolder(file, () => loop.wake());
  return {
    current: () => active!,
    problem: () => problem,
    refresh,
    stop: async () => {
      watcher?.close();
      await loop.stop();
    },
  };
}

/** The folder, not the file: editors and `kubectl` replace files by renaming. Polling goes on where it cannot be watched. */
function watchFolder(file: string, changed: () => void): FSWatcher | undefined {
  try {
    const watcher = watch(dirname(file), { persistent: false }, (_event, name) => {
      if (name === null || name === basename(file) || name.startsWith('..')) changed();
    });
    watcher.on('error', () => watcher.close());
    return watcher;
  } catch {
    return undefined;
  }
}

export interface PutResult {
  readonly policy: ActivePolicy;
  readonly warnings: readonly Finding[];
  /** The file written as well; undefined: it could not be, and only the store has the text. */
  readonly file: string | undefined;
}

/**
 * A policy given over HTTP: checked, stored as the newest version (that puts it in force on every node), and written to the
 * policy file too where that is possible, so that file and force agree.
 * @throws LearndError('invalid') with every mistake in `data.findings`; nothing has changed then.
 */
export async function putPolicy(
  text: string,
  options: { db: Database; settings: PolicySettings; file: string; log: Log },
): Promise<PutResult> {
  const policy = parsePolicy(text, { file: 'policy', settings: options.settings });
  const warnings = policyCheck(text, { settings: options.settings }).findings;
  const row = await accept(options.db, policy, 'http');
  let written: string | undefined;
  try {
    await replaceFile(options.file, text);
    written = options.file;
  } catch (error) {
    options.log.warn(`policy ${row.id} is in force but could not be written to ${options.file}: ${oneLine(error)}`);
  }
  return { policy: { id: row.id, source: row.source, policy }, warnings, file: written };
}

async function replaceFile(file: string, text: string): Promise<void> {
  await mkdir(dirname(file), { recursive: true });
  const temporary = `${file}.${process.pid}.tmp`;
  try {
    const handle = await open(temporary, 'w', 0o644);
    try {
      await handle.writeFile(text);
      await handle.sync();
    } finally {
      await handle.close();
    }
    await rename(temporary, file);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
}
