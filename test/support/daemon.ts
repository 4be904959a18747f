import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { sleep } from '../../src/base/clock.ts';

const BIN = resolve(import.meta.dirname, '../../bin/learnd.mjs');

export interface TestDaemon {
  readonly data: string;
  readonly url: string;
  readonly key: string;
  readonly process: ChildProcess;
  get(path: string): Promise<unknown>;
  post(path: string, body: unknown): Promise<unknown>;
  /** Everything it has logged. */
  log(): string;
  /** SIGTERM (or another signal), and waits for its end. */
  stop(signal?: NodeJS.Signals): Promise<number | null>;
}

/** The command line with its --json output parsed; rejects with its one error line. */
export function learnd(
  args: readonly string[],
  env: NodeJS.ProcessEnv = {},
): Promise<{ code: number; stdout: string; stderr: string }> {
  return new Promise((done, fail) => {
    const child = spawn(process.execPath, [BIN, ...args], {
      env: { ...process.env, ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let stdout = '';
    let stderr = '';
    child.stdout.on('data', chunk => (stdout += chunk));
    child.stderr.on('data', chunk => (stderr += chunk));
    child.on('error', fail);
    child.on('close', code => done({ code: code ?? 1, stdout, stderr }));
  });
}

interface Ending {
  after(end: () => unknown): void;
}

const endings = new WeakMap<Ending, (() => unknown)[]>();

/** What was made last ends first: `t.after` runs in the order given, which would delete a folder under a running daemon. */
export function lastFirst(t: Ending, end: () => unknown): void {
  const known = endings.get(t);
  if (known !== undefined) {
    known.push(end);
    return;
  }
  const list = [end];
  endings.set(t, list);
  t.after(async () => {
    for (const each of list.reverse()) await each();
  });
}

export function testFolder(t: Ending, name: string): string {
  const folder = mkdtempSync(join(tmpdir(), `learnd-${name}-`));
  lastFirst(t, () => rmSync(folder, { recursive: true, force: true, maxRetries: 5, retryDelay: 200 }));
  return folder;
}

/** A daemon as a user starts it: a process of its own on a data directory of its own and a free port. Stopped after the test. */
export async function startTestDaemon(
  t: Ending,
  options: {
    data: string;
    settings: string;
    policies: string;
    env?: NodeJS.ProcessEnv;
    readyMs?: number;
    /** Resolve as soon as it listens (no key then yet) instead of when it is ready. */
    listening?: boolean;
    /** Put before the command: a namespace to run it in, for one. */
    within?: readonly string[];
  },
): Promise<TestDaemon> {
  const config = join(options.data, 'learnd.yaml');
  const policies = join(options.data, 'policies.yaml');
  writeFileSync(config, options.settings);
  writeFileSync(policies, options.policies);
  const paths = ['--config', config, '--policies', policies, '--data', join(options.data, 'data')];
  const words = [...(options.within ?? []), process.execPath, BIN, 'start', ...paths, '--port', '0'];
  const child = spawn(words[0]!, words.slice(1), {
    env: { ...process.env, ...options.env },
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true,
  });
  let log = '';
  child.stdout.on('data', chunk => (log += chunk));
  child.stderr.on('data', chunk => (log += chunk));
  const ended = new Promise<number | null>(done => child.on('exit', code => done(code)));
  const daemon: TestDaemon = {
    data: join(options.data, 'data'),
    url: '',
    key: '',
    process: child,
    log: () => log,
    async stop(signal = 'SIGTERM') {
      if (child.exitCode === null && child.signalCode === null) child.kill(signal);
      return ended;
    },
    async get(path) {
      return answer(await fetch(`${this.url}${path}`, { headers: { authorization: `Bearer ${this.key}` } }));
    },
    async post(path, body) {
      const headers = { authorization: `Bearer ${this.key}`, 'content-type': 'application/json' };
      return answer(await fetch(`${this.url}${path}`, { method: 'POST', headers, body: JSON.stringify(body) }));
    },
  };
  lastFirst(t, async () => {
    if (process.env.LEARND_TEST_LOG !== undefined) process.stderr.write(log);
    if (child.exitCode === null && child.signalCode === null) {
      child.kill('SIGTERM');
      const timer = setTimeout(() => process.kill(-child.pid!, 'SIGKILL'), 30_000);
      await ended;
      clearTimeout(timer);
    }
  });
  const until = Date.now() + (options.readyMs ?? 120_000);
  for (;;) {
    if (child.exitCode !== null || child.signalCode !== null) throw new Error(`the daemon ended at start:\n${log}`);
    if (Date.now() > until) throw new Error(`the daemon was not ready in time:\n${log}`);
    try {
      const file = JSON.parse(readFileSync(join(daemon.data, 'daemon.json'), 'utf8')) as { url: string; pid: number };
      if (file.pid === child.pid) {
        if (options.listening) return Object.assign(daemon, { url: file.url });
        const ready = await fetch(`${file.url}/readyz`);
        if (ready.status === 200) {
          Object.assign(daemon, { url: file.url, key: readFileSync(join(daemon.data, 'admin.key'), 'utf8').trim() });
          return daemon;
        }
      }
    } catch {
      // not there yet: the loop's own limit ends the waiting
    }
    await sleep(100);
  }
}

async function answer(response: Response): Promise<unknown> {
  const text = await response.text();
  if (!response.ok) throw new Error(`${response.status} ${text}`);
  return text === '' ? undefined : JSON.parse(text);
}

/** Polls until `check` gives something other than undefined; `what` names it when time runs out. */
export async function eventually<T>(
  what: string,
  check: () => Promise<T | undefined>,
  ms: number,
  everyMs = 250,
): Promise<T> {
  const until = Date.now() + ms;
  let last: unknown;
  for (;;) {
    try {
      const found = await check();
      if (found !== undefined) return found;
    } catch (error) {
      // What a check asserts is final; anything else (a daemon that is starting) may come right.
      if (error instanceof assert.AssertionError) throw error;
      last = error;
    }
    if (Date.now() > until) throw new Error(`${what}: not within ${ms / 1000} s${last ? ` (${String(last)})` : ''}`);
    await sleep(everyMs);
  }
}
