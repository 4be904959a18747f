/** HTTP: routes, keys before bodies, bodies within bounds, answers as JSON or server-sent events. */
import type { IncomingMessage, ServerResponse } from 'node:http';
import { asLearndError, invalid, LearndError, oneLine } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import type { Answering } from './answer.ts';
import { parseJson, readBody } from './body.ts';
import { completeChat } from './chat.ts';
import { classify } from './classify.ts';
import { errorBody, retryAfter, statusOf } from './errors.ts';
import { ingestEvents, whollyRejected } from './events.ts';
import type { Keys } from './keys.ts';
import { openApi } from './openapi.ts';
import type { AdminHandler, EventKind, Scope } from './ports.ts';
import { respond } from './responses.ts';
import { classifyRequest } from './schemas.ts';
import { EventStream } from './sse.ts';

export interface HttpLimits {
  readonly body_bytes: number;
  readonly batch_events: number;
  readonly classify_texts: number;
  readonly label_chars: number;
  readonly text_bytes: number;
  readonly event_bytes: number;
}

export interface HttpOptions {
  readonly at: Answering;
  readonly keys: Keys;
  readonly limits: HttpLimits;
  readonly log: Log;
  /** What stands in the way of answering and storing. */
  readonly ready: () => Promise<readonly string[]>;
}

interface Call {
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  readonly url: URL;
  readonly params: Record<string, string>;
  /** Aborted when the client goes away. */
  readonly signal: AbortSignal;
  body(): Promise<Buffer>;
  json(): Promise<unknown>;
}

interface Route {
  readonly method: 'GET' | 'POST';
  readonly pattern: readonly string[];
  /** undefined: no key needed. */
  readonly scope: Scope | undefined;
  readonly handle: (call: Call) => Promise<void>;
}

export class HttpApi {
  readonly #options: HttpOptions;
  readonly #routes: Route[] = [];

  constructor(options: HttpOptions) {
    this.#options = options;
    const { at, limits } = options;
    const schema = classifyRequest(limits);
    this.#route('GET /healthz', undefined, async call => sendJson(call.response, 200, { status: 'ok' }));
    this.#route('GET /readyz', undefined, call => this.#ready(call));
    this.#route('GET /metrics', undefined, async call =>
      send(call.response, 200, 'text/plain; version=0.0.4; charset=utf-8', await at.ports.metrics()),
    );
    this.#route('GET /openapi.json', undefined, async call => sendJson(call.response, 200, openApi(limits)));
    this.#route('GET /v1/models', 'respond', call => this.#models(call));
    this.#route('POST /v1/responses', 'respond', call => this.#responses(call));
    this.#route('POST /v1/chat/completions', 'respond', call => this.#chat(call));
    this.#route('POST /v1/classify', 'respond', async call =>
      sendJson(call.response, 200, await classify(at, schema, await call.json(), call.signal)),
    );
    // Erasing is not undone by anything, so a key that may only give feedback may not do it.
    const kinds: ReadonlyArray<[EventKind, Scope]> = [
      ['feedback', 'feedback'],
      ['documents', 'feedback'],
      ['erasures', 'admin'],
    ];
    for (const [kind, scope] of kinds) this.#route(`POST /v1/${kind}`, scope, call => this.#ingest(call, kind));
    for (const [route, handler] of Object.entries(at.ports.admin)) {
      this.#route(route, 'admin', call => this.#admin(call, handler));
    }
  }

  /** Never rejects: every error has become an answer. */
  async handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const gone = new AbortController();
    response.on('close', () => {
      if (!response.writableEnded) gone.abort();
    });
    try {
      await this.#dispatch(request, response, gone.signal);
    } catch (thrown) {
      this.#fail(request, response, asLearndError(thrown));
    }
    // A body that nobody reads (refused before it was looked at) is let through unseen, so that the client, who is still sending,
    // gets the answer instead of a reset, and the connection can be used again.
    if (!request.complete && !request.destroyed) request.resume();
  }

  async #dispatch(request: IncomingMessage, response: ServerResponse, signal: AbortSignal): Promise<void> {
    let url: URL;
    try {
      url = new URL(request.url ?? '/', 'http://localhost');
    } catch (cause) {
      throw invalid('', 'the address is malformed', { cause });
    }
    const parts = url.pathname.split('/').slice(1).map(decode);
    const fits = this.#routes.flatMap(route => {
      const params = match(route.pattern, parts);
      return params === undefined ? [] : [{ route, params }];
    });
    const found = fits.find(({ route }) => route.method === (request.method === 'HEAD' ? 'GET' : request.method));
    const scope = found === undefined ? (parts[0] === 'v1' ? ('respond' as const) : undefined) : found.route.scope;
    if (found === undefined) {
      if (scope !== undefined) await this.#anyKey(request);
      if (fits.length > 0) response.setHeader('allow', fits.map(({ route }) => route.method).join(', '));
      throw new LearndError('not_found', `there is no ${request.method} ${url.pathname}`, {
        hint: 'See /openapi.json.',
        data: { status: fits.length > 0 ? 405 : 404 },
      });
    }
    if (scope !== undefined) await this.#options.keys.check(request.headers.authorization, scope);
    const body = () => readBody(request, this.#options.limits.body_bytes);
    await found.route.handle({
      request,
      response,
      url,
      params: found.params,
      signal,
      body,
      json: async () => parseJson(await body()),
    });
  }

  /** A path that does not exist is told only to who has some key. */
  async #anyKey(request: IncomingMessage): Promise<void> {
    await this.#options.keys.check(request.headers.authorization, 'respond').catch(error => {
      if (asLearndError(error).code !== 'forbidden') throw error;
    });
  }

  #route(route: string, scope: Scope | undefined, handle: Route['handle']): void {
    const [method, path] = route.split(' ') as ['GET' | 'POST', string];
    this.#routes.push({ method, pattern: path.split('/').slice(1), scope, handle });
  }

  #fail(request: IncomingMessage, response: ServerResponse, error: LearndError): void {
    const status = typeof error.data?.status === 'number' ? error.data.status : statusOf(error);
    if (status >= 500) {
      this.#options.log.warn('a request failed', { path: request.url?.split('?')[0], status, reason: oneLine(error) });
    }
    if (response.headersSent) {
      response.destroy();
      return;
    }
    const wait = retryAfter(error);
    if (wait !== undefined) response.setHeader('retry-after', String(wait));
    if (status === 401) response.setHeader('www-authenticate', 'Bearer');
    sendJson(response, status, { error: errorBody(error) });
  }

  async #ready(call: Call): Promise<void> {
    const reasons = await this.#options.ready();
    const ready = reasons.length === 0;
    sendJson(call.response, ready ? 200 : 503, { ready, reasons, model: this.#options.at.versions.champion ?? null });
  }

  async #models(call: Call): Promise<void> {
    const { ports } = this.#options.at;
    const versions = await ports.listVersions();
    const owner = ports.modelName();
    const data = [{ version: owner, created: versions.at(-1)?.created ?? 0 }, ...versions].map(version => ({
      id: version.version,
      object: 'model',
      created: version.created,
      owned_by: owner,
    }));
    sendJson(call.response, 200, { object: 'list', data });
  }

  async #responses(call: Call): Promise<void> {
    const body = await call.json();
    const options = { signal: call.signal, memory: new Map() };
    if (!wantsStream(body)) {
      sendJson(call.response, 200, await respond(this.#options.at, body, options));
      return;
    }
    const stream = new EventStream(call.response);
    await respond(this.#options.at, body, { ...options, emit: event => stream.send(event, event.type) });
    stream.end();
  }

  async #chat(call: Call): Promise<void> {
    const body = await call.json();
    if (!wantsStream(body)) {
      sendJson(call.response, 200, await completeChat(this.#options.at, body, { signal: call.signal }));
      return;
    }
    const stream = new EventStream(call.response);
    try {
      await completeChat(this.#options.at, body, { signal: call.signal, emit: chunk => stream.send(chunk) });
    } catch (thrown) {
      if (!stream.started) throw thrown;
      stream.send({ error: errorBody(thrown) });
    }
    stream.send('[DONE]');
    stream.end();
  }

  async #ingest(call: Call, kind: EventKind): Promise<void> {
    const { at, limits } = this.#options;
    const report = await ingestEvents(at.ports, kind, await call.json(), limits.batch_events, 'http');
    const wrong = whollyRejected(report);
    sendJson(call.response, wrong ? 400 : 200, wrong ? { ...report, error: errorBody(wrong) } : report);
  }

  async #admin(call: Call, handler: AdminHandler): Promise<void> {
    const bytes = call.request.method === 'POST' ? await call.body() : Buffer.alloc(0);
    const json = /json/i.test(call.request.headers['content-type'] ?? 'application/json');
    const body = bytes.length === 0 ? undefined : json ? parseJson(bytes) : bytes.toString('utf8');
    const result = await handler({
      method: call.request.method === 'POST' ? 'POST' : 'GET',
      path: call.url.pathname,
      params: call.params,
      query: call.url.searchParams,
      body,
      signal: call.signal,
    });
    if (typeof result === 'string') send(call.response, 200, 'text/plain; charset=utf-8', result);
    else sendJson(call.response, 200, result ?? null);
  }
}

const wantsStream = (body: unknown): boolean =>
  typeof body === 'object' && body !== null && (body as { stream?: unknown }).stream === true;

function decode(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch (cause) {
    throw invalid('', 'the address is malformed', { cause });
  }
}

function match(pattern: readonly string[], parts: readonly string[]): Record<string, string> | undefined {
  if (pattern.length !== parts.length) return undefined;
  const params: Record<string, string> = {};
  for (const [index, part] of pattern.entries()) {
    if (part.startsWith(':')) params[part.slice(1)] = parts[index]!;
    else if (part !== parts[index]) return undefined;
  }
  return params;
}

export const sendJson = (response: ServerResponse, status: number, body: unknown): void =>
  send(response, status, 'application/json', JSON.stringify(body));

function send(response: ServerResponse, status: number, type: string, text: string): void {
  if (response.destroyed) return;
  response.writeHead(status, {
    'content-type': type,
    'content-length': Buffer.byteLength(text),
    'cache-control': 'no-store',
  });
  response.end(text);
}
