/**
 * Which versions are loaded, which one is the champion, and who still uses the others. A swap loads the new version beside the
 * running one, proves it by a tiny generation and only then moves the pointer: what is in flight finishes on the version it began
 * with, because it holds a lease on it. Caches live in a version's own context, so nothing crosses from one version to another.
 */
import { LearndError, oneLine } from '../base/errors.ts';
import { type Log, silentLog } from '../base/log.ts';
import type { EngineProcess } from './engine/engine.ts';
import type { LoadResult, VersionFiles } from './engine/protocol.ts';

/** The right to use one loaded version; `release` exactly once (further calls do nothing). */
export interface Lease {
  readonly version: string;
  readonly files: VersionFiles;
  release(): void;
}

export interface LoadedState {
  readonly version: string;
  readonly sha256: string;
  readonly role: 'champion' | 'previous' | 'other';
  readonly inUse: number;
}

interface Entry {
  readonly files: VersionFiles;
  /** Settles when the engine has loaded it. */
  loading: Promise<LoadResult>;
  leases: number;
  usedAt: number;
}

/** Versions kept loaded that are neither champion nor its predecessor: asked for by name, or a challenger. */
const OTHERS_KEPT = 1;

export class VersionTable {
  readonly #engine: EngineProcess;
  readonly #log: Log;
  readonly #entries = new Map<string, Entry>();
  #champion: string | undefined;
  #previous: string | undefined;
  #uses = 0;
  #swap: Promise<unknown> = Promise.resolve();

  constructor(engine: EngineProcess, log: Log = silentLog) {
    this.#engine = engine;
    this.#log = log;
    engine.onStart = () => this.#reload();
  }

  /** `name@N` of the version that answers by default. */
  get champion(): string | undefined {
    return this.#champion;
  }

  loaded(): LoadedState[] {
    return [...this.#entries].map(([version, entry]) => ({
      version,
      sha256: entry.files.sha256,
      role: version === this.#champion ? 'champion' : version === this.#previous ? 'previous' : 'other',
      inUse: entry.leases,
    }));
  }

  /**
   * Makes `files` the champion once it is loaded and has answered. On an error the champion stays what it was; the error says why
   * ('corrupt', 'not_found', 'conflict', 'not_ready'). One swap at a time; the last one asked for wins.
   */
  setChampion(files: VersionFiles): Promise<LoadResult> {
    const swap = this.#swap.then(async () => {
      const lease = await this.acquire(files);
      try {
        const result = await this.#entries.get(files.version)!.loading;
        if (this.#champion !== files.version) {
          this.#previous = this.#champion;
          this.#champion = files.version;
          this.#log.info('champion', {
            version: files.version,
            before: this.#previous,
            load_ms: Math.round(result.milliseconds),
          });
        }
        return result;
      } finally {
        lease.release();
      }
    });
    this.#swap = swap.catch(() => undefined);
    return swap;
  }

  /** A lease on the champion, or on the version given, which is loaded first where it is not. */
  async acquire(which: 'champion' | VersionFiles): Promise<Lease> {
    if (which === 'champion') {
      if (this.#champion === undefined) {
        throw new LearndError('not_ready', 'no version can answer yet', { hint: 'See /readyz.' });
      }
      const entry = this.#entries.get(this.#champion)!;
      return await this.#loaded(entry, this.#lease(this.#champion, entry));
    }
    let entry = this.#entries.get(which.version);
    if (entry !== undefined && entry.files.sha256 !== which.sha256) {
      throw new LearndError('conflict', `${which.version} is loaded with another content; versions do not change`);
    }
    entry ??= this.#load(which);
    return await this.#loaded(entry, this.#lease(which.version, entry));
  }

  /** Waits for the version; one that could not be loaded again after a crash of the engine is tried once more. */
  async #loaded(entry: Entry, lease: Lease): Promise<Lease> {
    try {
      await entry.loading.catch(error => {
        if (this.#entries.get(lease.version) !== entry) throw error; // a first load that failed
        entry.loading = this.#engine.call('load', entry.files);
        return entry.loading;
      });
      return lease;
    } catch (thrown) {
      lease.release();
      throw thrown;
    }
  }

  #load(files: VersionFiles): Entry {
    const entry: Entry = { files, loading: this.#engine.call('load', files), leases: 0, usedAt: ++this.#uses };
    this.#entries.set(files.version, entry);
    entry.loading.catch(() => {
      if (this.#entries.get(files.version) === entry) this.#entries.delete(files.version);
    });
    return entry;
  }

  #lease(version: string, entry: Entry): Lease {
    entry.leases++;
    entry.usedAt = ++this.#uses;
    let held = true;
    return {
      version,
      files: entry.files,
      release: () => {
        if (!held) return;
        held = false;
        entry.leases--;
        this.#sweep();
      },
    };
  }

  /** Unloads what nobody uses: all but the champion, its predecessor (for a quick way back) and the last few others. */
  #sweep(): void {
    const idle = [...this.#entries]
      .filter(([version, entry]) => entry.leases === 0 && version !== this.#champion && version !== this.#previous)
      .sort(([, a], [, b]) => b.usedAt - a.usedAt);
    for (const [version] of idle.slice(OTHERS_KEPT)) {
      this.#entries.delete(version);
      this.#engine.call('unload', { version }).catch(error => {
        this.#log.warn('a version could not be unloaded', { version, reason: oneLine(error) });
      });
    }
  }

  /** After the engine process started again: the champion, for which answers wait, then whatever else was loaded, which does not. */
  async #reload(): Promise<void> {
    const order = [...this.#entries].sort(([a], [b]) => Number(b === this.#champion) - Number(a === this.#champion));
    for (const [version, entry] of order) {
      const loading = this.#engine.call('load', entry.files, { early: true });
      entry.loading = loading;
      loading.catch(error => {
        this.#log.error('a version could not be loaded again', { version, reason: oneLine(error) });
        if (version !== this.#champion && this.#entries.get(version)?.loading === loading)
          this.#entries.delete(version);
      });
    }
    await order[0]?.[1].loading.catch(() => undefined); // reported above; the next request for it tries again
  }
}
