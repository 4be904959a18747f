/** The serving role: engine process, version table, HTTP and WebSocket on one port. Starts, swaps, drains, stops. */
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { type Clock, sleep, systemClock } from '../base/clock.ts';
import { LearndError, oneLine } from '../base/errors.ts';
import { type Log, silentLog } from '../base/log.ts';
import { Admission } from './admission.ts';
import type { Answering } from './answer.ts';
import { type Classification, classify } from './classify.ts';
import { EngineProcess } from './engine/engine.ts';
import type { LoadResult, VersionFiles } from './engine/protocol.ts';
import { Exchanges } from './exchanges.ts';
import { HttpApi, type HttpLimits } from './http.ts';
import { Keys } from './keys.ts';
import type { ServePorts } from './ports.ts';
import { classifyRequest } from './schemas.ts';
import { SocketApi } from './socket.ts';
import { VersionTable } from './swap.ts';

export interface ServeOptions {
  readonly ports: ServePorts;
  readonly host: string;
  /** 0 takes a free one. */
  readonly port: number;
  readonly limits: HttpLimits;
  readonly serve: {
    readonly sequences: number;
    readonly context: number;
    readonly threads: number;
    readonly queue: number;
    readonly max_output_tokens: number;
    readonly drain_seconds: number;
  };
  readonly log?: Log;
  readonly clock?: Clock;
  /** false: no engine; only `/healthz`, `/readyz`, `/metrics`, events and the admin part (a process without the role serve). */
  readonly answers?: boolean;
}

/** How long the store may take to say whether it is ready. */
const READY_WITHIN_MS = 2_000;

export class Serving {
  readonly engine: EngineProcess;
  readonly versions: VersionTable;
  readonly #options: ServeOptions;
  readonly #log: Log;
  readonly #at: Answering;
  readonly #server: Server;
  readonly #sockets: SocketApi;
  readonly #exchanges: Exchanges;
  #closing: Promise<void> | undefined;

  private constructor(options: ServeOptions) {
    const { ports, serve, limits } = options;
    const log = options.log ?? silentLog;
    this.#options = options;
    this.#log = log;
    this.engine = new EngineProcess({
      sequences: serve.sequences,
      contextSize: serve.context,
      threads: serve.threads,
      log: log.child('engine'),
    });
    this.versions = new VersionTable(this.engine, log.child('versions'));
    this.#exchanges = new Exchanges(ports, log.child('exchanges'));
    this.#at = {
      ports,
      engine: this.engine,
      versions: this.versions,
      exchanges: this.#exchanges,
      admission: new Admission(serve.sequences, serve.queue),
      clock: options.clock ?? systemClock,
      defaultMaxTokens: serve.max_output_tokens,
    };
    const keys = new Keys(ports.keys.find, this.#at.clock);
    const http = new HttpApi({ at: this.#at, keys, limits, log: log.child('http'), ready: () => this.notReady() });
    this.#sockets = new SocketApi({ at: this.#at, keys, limits, log: log.child('socket') });
    this.#server = createServer({ keepAliveTimeout: 30_000, requestTimeout: 120_000 }, (request, response) => {
      if (this.#closing !== undefined) response.setHeader('connection', 'close');
      void http.handle(request, response);
    });
    this.#server.on('upgrade', (request, socket, head) => void this.#sockets.upgrade(request, socket, head));
    this.#server.on('clientError', (_error, socket) => {
      // Not HTTP, or half of it: an answer where the client still listens, then the end of this connection alone.
      if (socket.writable) socket.end('HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n');
      else socket.destroy();
    });
  }

  /**
   * Listens at once (`/healthz` answers), then starts the engine process; answers come after `setChampion`.
   * @throws 'conflict' when the port is taken, 'dependency' when the engine does not start.
   */
  static async start(options: ServeOptions): Promise<Serving> {
    const serving = new Serving(options);
    await new Promise<void>((resolve, reject) => {
      serving.#server.once('error', cause => {
        reject(
          new LearndError('conflict', `cannot listen on ${options.host}:${options.port}: ${cause.message}`, {
            field: 'port',
            hint: 'Choose another port (--port), 0 for a free one.',
            cause,
          }),
        );
      });
      serving.#server.listen(options.port, options.host, resolve);
    });
    if (options.answers === false) return serving;
    try {
      await serving.engine.start();
    } catch (thrown) {
      await serving.close();
      throw thrown;
    }
    return serving;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  /** `http://HOST:PORT`, an address that can be connected to. */
  get url(): string {
    const { host } = this.#options;
    const name = host === '0.0.0.0' || host === '::' ? '127.0.0.1' : host;
    return `http://${name.includes(':') ? `[${name}]` : name}:${this.port}`;
  }

  /** See VersionTable.setChampion. */
  setChampion(files: VersionFiles): Promise<LoadResult> {
    return this.versions.setChampion(files);
  }

  /** The same as `POST /v1/classify`, without the network: for whoever watches the served version. */
  classify(
    body: { task: string; texts: readonly string[]; labels?: readonly string[]; model?: string },
    signal: AbortSignal = new AbortController().signal,
  ): Promise<Classification> {
    return classify(this.#at, classifyRequest(this.#options.limits), body, signal);
  }

  /** What stands in the way of answering and storing; empty when ready. */
  async notReady(): Promise<string[]> {
    const reasons: string[] = [];
    if (this.#closing !== undefined) reasons.push('the daemon is stopping');
    if (this.#options.answers !== false) {
      if (this.versions.champion === undefined) reasons.push('no version is loaded yet');
      if (this.engine.trouble !== undefined) reasons.push(this.engine.trouble);
    }
    if (this.#exchanges.trouble !== undefined) reasons.push(this.#exchanges.trouble);
    const late = sleep(READY_WITHIN_MS).then(() => ({ ok: false, reasons: ['the store does not answer'] }));
    const store = await Promise.race([this.#options.ports.ready(), late]).catch(error => ({
      ok: false,
      reasons: [oneLine(error)],
    }));
    if (!store.ok) reasons.push(...(store.reasons.length > 0 ? store.reasons : ['events cannot be stored']));
    return reasons;
  }

  /** Accepts nothing new, lets what is in flight finish within the drain time, then ends everything. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    const closed = new Promise<void>(resolve => this.#server.close(() => resolve()));
    const drained = await this.#at.admission.drain(this.#options.serve.drain_seconds * 1_000);
    if (!drained) this.#log.warn('answers were cut off at the stop', { in_flight: this.#at.admission.inFlight });
    // What has just ended still has its last frame to send.
    await sleep(0);
    await this.#sockets.close();
    this.#server.closeIdleConnections();
    const patience = setTimeout(() => this.#server.closeAllConnections(), drained ? 1_000 : 0);
    await closed;
    clearTimeout(patience);
    await this.#exchanges.close();
    await this.engine.stop();
  }
}
