import { asLearndError, LearndError } from '../base/errors.ts';
import type { Settings } from '../base/settings.ts';
import { withSpan } from '../base/telemetry.ts';
import type { VersionFiles } from '../learn/model/version.ts';
import { openVersion, resolveModelName, versionName } from '../loop/registry/index.ts';
import type { Artifacts } from '../store/artifacts.ts';
import type { Database } from '../store/database.ts';
import { loadExchange } from '../store/exchanges.ts';
import { findKey } from '../store/keys.ts';
import { listVersions, type VersionRow } from '../store/versions.ts';
import type { AdminHandler, EventKind, Exchange, IngestReport, Served, ServePorts } from './ports.ts';

/** What serving needs from the store, once there is one. */
export interface StoreParts {
  readonly db: Database;
  readonly artifacts: Artifacts;
  /** Leaves out an exchange of a user who was erased. */
  readonly saveExchange: (exchange: Exchange) => Promise<void>;
  readonly ingest: (kind: EventKind, events: readonly unknown[], origin: 'http' | 'socket') => Promise<IngestReport>;
}

/** Files already opened, by content: `name@N` never changes, so its files are looked up once. */
export class VersionOpener {
  readonly #opened = new Map<string, Promise<VersionFiles>>();

  open(row: VersionRow, artifacts: Artifacts): Promise<VersionFiles> {
    let files = this.#opened.get(row.sha256);
    if (files === undefined) {
      files = openVersion(row, artifacts);
      files.catch(() => this.#opened.delete(row.sha256));
      this.#opened.set(row.sha256, files);
    }
    return files;
  }
}

/** `ServePorts` on PostgreSQL. Until `parts` gives the store, everything that needs it says `not_ready`. */
export function storePorts(options: {
  settings: Settings;
  parts: () => StoreParts | undefined;
  /** What stands in the way of storing events, beside a store that is not there. */
  notReady: () => readonly string[];
  admin: Readonly<Record<string, AdminHandler>>;
  metrics: () => Promise<string>;
  onServed: (served: Served) => void;
}): ServePorts {
  const { settings } = options;
  const opener = new VersionOpener();
  const store = (): StoreParts => {
    const parts = options.parts();
    if (parts === undefined) {
      throw new LearndError('not_ready', 'the store is not up yet', { hint: 'See /readyz.' });
    }
    return parts;
  };
  return {
    ingest: (kind, events, origin) =>
      withSpan('learnd.ingest', { 'learnd.kind': kind, 'learnd.origin': origin, 'learnd.events': events.length }, () =>
        store().ingest(kind, events, origin),
      ),
    saveExchange: exchange => store().saveExchange(exchange),
    loadExchange: responseId => loadExchange(store().db, responseId),
    keys: { find: hash => findKey(store().db, hash) },
    modelName: () => settings.name,
    async resolveVersion(model) {
      const { db, artifacts } = store();
      try {
        const row = await resolveModelName(db, settings, model);
        return { found: true, files: await opener.open(row, artifacts) };
      } catch (thrown) {
        const error = asLearndError(thrown);
        if (error.code !== 'not_found') throw error;
        return { found: false, reason: `${error.message}; ${error.hint ?? ''}` };
      }
    },
    async listVersions() {
      const rows = await listVersions(store().db);
      return rows
        .filter(row => row.state === 'ready')
        .map(row => ({ version: versionName(row), created: Math.floor(row.created_at.getTime() / 1000) }));
    },
    tasks: () => settings.tasks,
    async ready() {
      const reasons = [...options.notReady()];
      const parts = options.parts();
      if (parts === undefined) reasons.push('the store is not up yet');
      else {
        try {
          await parts.db.query('select 1');
        } catch (thrown) {
          reasons.push(`events cannot be stored: ${asLearndError(thrown).message}`);
        }
      }
      return { ok: reasons.length === 0, reasons };
    },
    admin: options.admin,
    metrics: options.metrics,
    onServed: options.onServed,
  };
}
