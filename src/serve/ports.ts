/**
 * Everything serving needs from outside, as one interface: the daemon implements it on the store and the control role, tests in
 * memory. Serving itself holds no SQL and knows no broker. Any port may throw `LearndError('dependency'|'not_ready')` while its
 * service is down: answering goes on, and `/readyz` says so.
 */
import type { ChatMessage, Exchange, Role } from '../events/exchange.ts';
import type { VersionFiles } from './engine/protocol.ts';

export type Scope = 'respond' | 'feedback' | 'admin';
export type EventKind = 'feedback' | 'documents' | 'erasures';

export interface IngestReport {
  readonly accepted: number;
  readonly duplicates: number;
  /** `index` counts in the batch as given; `field` is the dotted path of the field at fault. */
  readonly rejected: ReadonlyArray<{ readonly index: number; readonly field: string; readonly reason: string }>;
}

export type { ChatMessage, Exchange, Role };

/** A classification task declared in settings; labels in declared order. */
export interface TaskDeclaration {
  readonly name: string;
  readonly labels: readonly string[];
}

export type Resolution =
  | { readonly found: true; readonly files: VersionFiles }
  /** `reason` is one sentence for the caller, e.g. which names exist. */
  | { readonly found: false; readonly reason: string };

export interface AdminRequest {
  readonly method: 'GET' | 'POST';
  /** The path as asked for, e.g. `/v1/admin/versions/learnd@2/promote`. */
  readonly path: string;
  /** Values of the `:name` parts of the handler's pattern. */
  readonly params: Readonly<Record<string, string>>;
  readonly query: URLSearchParams;
  /** Parsed JSON, or text for any other content type (`text/yaml`: policies); undefined without a body. */
  readonly body: unknown;
  readonly signal: AbortSignal;
}

/** Throws LearndError; what it returns is the JSON answer (a string is sent as text/plain). */
export type AdminHandler = (request: AdminRequest) => Promise<unknown>;

export interface Served {
  readonly kind: 'responses' | 'chat' | 'classify';
  readonly version: string;
  readonly latencyMs: number;
  readonly firstTokenMs: number | undefined;
  readonly inputTokens: number;
  readonly outputTokens: number;
  /** Code of the error, where it failed through no fault of the caller's. A cancelled answer is no error. */
  readonly error: string | undefined;
  readonly cancelled: boolean;
}

export interface ServePorts {
  /** Stores valid events durably before it resolves; `origin` says the way they came. Throws when the store is down. */
  ingest(kind: EventKind, events: readonly unknown[], origin: 'http' | 'socket'): Promise<IngestReport>;
  saveExchange(exchange: Exchange): Promise<void>;
  loadExchange(responseId: string): Promise<Exchange | undefined>;
  keys: {
    /** `tokenSha256`: lower-case hex sha256 of the bearer token. */
    find(tokenSha256: string): Promise<{ readonly scopes: readonly Scope[] } | undefined>;
  };
  /** The model's name (settings `name`): what `model` means when a request gives none. */
  modelName(): string;
  /** `name`, `name@N`, `name@champion`, `name@challenger`. Not called for the champion: that is what `setChampion` was given. */
  resolveVersion(model: string): Promise<Resolution>;
  /** For `GET /v1/models`: every published version; `created` in seconds since the epoch. */
  listVersions(): Promise<ReadonlyArray<{ readonly version: string; readonly created: number }>>;
  tasks(): readonly TaskDeclaration[];
  /** What stands in the way of storing events (the champion is serving's own to know). */
  ready(): Promise<{ readonly ok: boolean; readonly reasons: readonly string[] }>;
  /** `GET /v1/admin/status`, `POST /v1/admin/versions/:version/promote`, …: method, space, pattern with `:name` parts. */
  admin: Readonly<Record<string, AdminHandler>>;
  /** Prometheus text. */
  metrics(): Promise<string>;
  /** Called once for every answer and classification; must not throw. */
  onServed(served: Served): void;
}
