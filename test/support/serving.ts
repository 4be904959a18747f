import { createHash } from 'node:crypto';
import type { VersionFiles } from '../../src/learn/model/version.ts';
import type { EventKind, Exchange, Scope, Served, ServePorts } from '../../src/serve/ports.ts';
import { Serving } from '../../src/serve/server.ts';
import { testFolder } from './daemon.ts';
import { byteToken, writeTinyModel } from './tiny-model.ts';

export const LIMITS = {
  body_bytes: 32 << 20,
  batch_events: 1_000,
  classify_texts: 256,
  label_chars: 256,
  text_bytes: 64 << 10,
  event_bytes: 1 << 20,
};

export const SERVE = { sequences: 4, context: 512, threads: 1, queue: 64, max_output_tokens: 64, drain_seconds: 5 };

/** Ports in memory: what was stored and served can be looked at, and the store can be switched off. */
export class MemoryPorts implements ServePorts {
  readonly exchanges = new Map<string, Exchange>();
  readonly events: Array<{ kind: EventKind; event: unknown; origin: string }> = [];
  readonly served: Served[] = [];
  readonly versions = new Map<string, VersionFiles>();
  readonly scopes = new Map<string, Scope[]>([
    ['admin-key', ['admin']],
    ['respond-key', ['respond']],
    ['feedback-key', ['feedback']],
  ]);
  tasksDeclared = [{ name: 'intent', labels: ['balance', 'transfer', 'card_lost'] }];
  storeUp = true;
  admin: ServePorts['admin'] = {
    'GET /v1/admin/status': async () => ({ champion: 'tiny@1' }),
    'POST /v1/admin/versions/:version/promote': async ({ params, body }) => ({ promoted: params.version, body }),
  };

  /** As if nothing had happened yet; versions stay known. */
  reset(): void {
    this.exchanges.clear();
    this.events.length = 0;
    this.served.length = 0;
    this.storeUp = true;
  }

  #up(): void {
    if (!this.storeUp) throw new Error('connection refused');
  }

  keys = {
    find: async (hash: string) => {
      this.#up();
      for (const [key, scopes] of this.scopes) {
        if (createHash('sha256').update(key).digest('hex') === hash) return { scopes };
      }
      return undefined;
    },
  };

  async ingest(kind: EventKind, events: readonly unknown[], origin: 'http' | 'socket') {
    this.#up();
    const rejected: Array<{ index: number; field: string; reason: string }> = [];
    for (const [index, event] of events.entries()) {
      if (typeof (event as { type?: unknown } | null)?.type !== 'string') {
        rejected.push({ index, field: 'type', reason: 'is required' });
      } else this.events.push({ kind, event, origin });
    }
    return { accepted: events.length - rejected.length, duplicates: 0, rejected };
  }

  async saveExchange(exchange: Exchange) {
    this.#up();
    this.exchanges.set(exchange.responseId, exchange);
  }

  async loadExchange(id: string) {
    this.#up();
    return this.exchanges.get(id);
  }

  modelName() {
    return 'tiny';
  }

  async resolveVersion(model: string) {
    const files = this.versions.get(model);
    return files ? { found: true as const, files } : { found: false as const, reason: 'no such version' };
  }

  async listVersions() {
    return [...this.versions.keys()].map(version => ({ version, created: 1 }));
  }

  tasks() {
    return this.tasksDeclared;
  }

  async ready() {
    return { ok: this.storeUp, reasons: this.storeUp ? [] : ['the database is down'] };
  }

  async metrics() {
    return 'learnd_up 1\n';
  }

  onServed(served: Served) {
    this.served.push(served);
  }
}

export interface TestServing {
  readonly serving: Serving;
  readonly ports: MemoryPorts;
  readonly folder: string;
  readonly url: string;
  /** A version of the tiny model; with `says` it says nothing but that character. */
  version(n: number, options?: { says?: string; more?: Partial<VersionFiles> }): Promise<VersionFiles>;
  request(path: string, init?: RequestInit & { key?: string | null }): Promise<Response>;
  post(path: string, body: unknown, key?: string | null): Promise<Response>;
}

/** Serving on a free port, with ports in memory and no champion yet; closed after the test (or after all, given that hook). */
export async function startServing(
  t: { after(end: () => unknown): void },
  options: { serve?: Partial<typeof SERVE>; limits?: Partial<typeof LIMITS> } = {},
): Promise<TestServing> {
  const folder = testFolder(t, 'serving');
  const ports = new MemoryPorts();
  const serving = await Serving.start({
    ports,
    host: '127.0.0.1',
    port: 0,
    limits: { ...LIMITS, ...options.limits },
    serve: { ...SERVE, ...options.serve },
  });
  t.after(() => serving.close());
  const headers = (key: string | null): Record<string, string> =>
    key === null ? {} : { authorization: `Bearer ${key}` };
  return {
    serving,
    ports,
    folder,
    url: serving.url,
    async version(n, { says, more } = {}) {
      const files: VersionFiles = {
        version: `tiny@${n}`,
        sha256: `sha-${n}`,
        model: more?.model ?? (await writeTinyModel(folder, `tiny-${n}`, n)),
        heads: {},
        ...(says !== undefined && { logitBias: [[byteToken(says), 1_000] as const] }),
        ...more,
      };
      ports.versions.set(files.version, files);
      return files;
    },
    request(path, { key = 'admin-key', ...init } = {}) {
      return fetch(`${serving.url}${path}`, { ...init, headers: { ...headers(key), ...init.headers } });
    },
    post(path, body, key = 'admin-key') {
      return fetch(`${serving.url}${path}`, {
        method: 'POST',
        headers: { ...headers(key), 'content-type': 'application/json' },
        body: typeof body === 'string' ? body : JSON.stringify(body),
      });
    },
  };
}

export const json = async (response: Response): Promise<Record<string, unknown>> =>
  (await response.json()) as Record<string, unknown>;
