/**
 * `ws://HOST/v1/responses`: the OpenAI Responses WebSocket mode, and learnd's own frames beside it. Answers on one socket are given
 * one after the other; a mistake in a frame is answered by an `error` frame, and only a violation of the protocol closes the socket.
 */
import type { IncomingMessage } from 'node:http';
import type { Duplex } from 'node:stream';
import { type RawData, type WebSocket, WebSocketServer } from 'ws';
import { asLearndError, invalid, LearndError, laterVersion } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import type { Answering, ConnectionMemory } from './answer.ts';
import { parseJson } from './body.ts';
import { errorBody, retryAfter, statusOf } from './errors.ts';
import { ingestEvents, whollyRejected } from './events.ts';
import type { Key, Keys } from './keys.ts';
import { respond } from './responses.ts';
import { UNSENT_BYTES_AT_MOST } from './sse.ts';

export interface SocketOptions {
  readonly at: Answering;
  readonly keys: Keys;
  readonly log: Log;
  readonly limits: { readonly body_bytes: number; readonly batch_events: number };
  /** A socket that answers no ping within this is taken for dead. Milliseconds. */
  readonly pingMs?: number;
}

/** `response.create` frames of one socket that may wait for their turn. */
const WAITING_AT_MOST = 32;
const LATER = new Set(['learnd.response.resume', 'learnd.events.subscribe']);

type Frame = { readonly type: string } & Record<string, unknown>;

export class SocketApi {
  readonly #options: SocketOptions;
  readonly #server: WebSocketServer;
  readonly #ping: NodeJS.Timeout;
  readonly #silent = new WeakSet<WebSocket>();

  constructor(options: SocketOptions) {
    this.#options = options;
    this.#server = new WebSocketServer({ noServer: true, maxPayload: options.limits.body_bytes, clientTracking: true });
    this.#ping = setInterval(() => this.#pingAll(), options.pingMs ?? 30_000);
    this.#ping.unref();
  }

  get connections(): number {
    return this.#server.clients.size;
  }

  /** An HTTP upgrade: refused with an ordinary HTTP answer, or a socket. Never rejects. */
  async upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): Promise<void> {
    socket.on('error', () => socket.destroy()); // the client may leave before it is a WebSocket
    try {
      if ((request.url ?? '').split('?')[0] !== '/v1/responses') {
        throw new LearndError('not_found', 'WebSockets are at /v1/responses');
      }
      const key = await this.#options.keys.check(request.headers.authorization, 'respond');
      this.#server.handleUpgrade(request, socket, head, ws => new Connection(ws, key, this.#options));
    } catch (thrown) {
      refuse(socket, asLearndError(thrown));
    }
  }

  /** Says goodbye to every client and closes. */
  async close(): Promise<void> {
    clearInterval(this.#ping);
    const open = [...this.#server.clients];
    await Promise.all(
      open.map(
        ws =>
          new Promise<void>(resolve => {
            const timer = setTimeout(() => ws.terminate(), 1_000);
            ws.once('close', () => {
              clearTimeout(timer);
              resolve();
            });
            ws.close(1001, 'the daemon is stopping');
          }),
      ),
    );
    this.#server.close();
  }

  #pingAll(): void {
    for (const ws of this.#server.clients) {
      if (this.#silent.has(ws)) {
        ws.terminate();
        continue;
      }
      this.#silent.add(ws);
      ws.once('pong', () => this.#silent.delete(ws));
      ws.ping();
    }
  }
}

class Connection {
  readonly #ws: WebSocket;
  readonly #key: Key;
  readonly #options: SocketOptions;
  readonly #gone = new AbortController();
  readonly #memory: ConnectionMemory = new Map();
  #turn: Promise<void> = Promise.resolve();
  #waiting = 0;

  constructor(ws: WebSocket, key: Key, options: SocketOptions) {
    this.#ws = ws;
    this.#key = key;
    this.#options = options;
    ws.on('message', (data, binary) => this.#receive(data, binary));
    ws.on('close', () => this.#gone.abort());
    // Malformed frames and oversized messages: ws closes the socket with the code of the protocol (1002, 1007, 1009).
    ws.on('error', error => options.log.debug('socket error', { reason: error.message }));
  }

  #receive(data: RawData, binary: boolean): void {
    let frame: Frame;
    try {
      frame = toFrame(data, binary);
    } catch (thrown) {
      this.#error(thrown);
      return;
    }
    if (frame.type === 'response.create') this.#enqueue(frame);
    else void this.#own(frame).catch(thrown => this.#error(thrown, frame));
  }

  #enqueue(frame: Frame): void {
    if (this.#waiting >= WAITING_AT_MOST) {
      const message = `${this.#waiting} answers wait on this socket already`;
      this.#error(new LearndError('busy', message, { data: { code: 'rate_limit_exceeded' } }), frame);
      return;
    }
    this.#waiting++;
    this.#turn = this.#turn.then(async () => {
      try {
        if (!this.#gone.signal.aborted) await this.#respond(frame);
      } catch (thrown) {
        this.#error(thrown, frame);
      } finally {
        this.#waiting--;
      }
    });
  }

  async #respond(frame: Frame): Promise<void> {
    const { type: _, event_id: __, ...body } = frame;
    await respond(this.#options.at, body, {
      signal: this.#gone.signal,
      memory: this.#memory,
      emit: event => this.#send(event),
    });
  }

  async #own(frame: Frame): Promise<void> {
    if (LATER.has(frame.type)) throw laterVersion(frame.type);
    if (frame.type !== 'learnd.feedback.create') {
      throw invalid('type', 'unknown type; known: response.create, learnd.feedback.create');
    }
    if (!this.#key.allows('feedback')) throw new LearndError('forbidden', 'this key has no scope feedback');
    const { type: _, event_id, event, events, ...others } = frame;
    const unknown = Object.keys(others)[0];
    if (unknown !== undefined) throw invalid(unknown, `unknown field ${unknown}`);
    if ((event === undefined) === (events === undefined)) throw invalid('event', 'give either event or events');
    if (events !== undefined && !Array.isArray(events)) throw invalid('events', 'events must be an array');
    const { at, limits } = this.#options;
    const report = await ingestEvents(at.ports, 'feedback', events ?? [event], limits.batch_events, 'socket');
    // As over HTTP: what was refused whole is an error, not something accepted.
    const wrong = whollyRejected(report);
    if (wrong !== undefined) throw wrong;
    this.#send({ type: 'learnd.feedback.accepted', ...(event_id !== undefined && { event_id }), ...report });
  }

  #error(thrown: unknown, frame?: Frame): void {
    const error = asLearndError(thrown);
    if (error.code === 'canceled') return;
    if (error.code === 'internal') this.#options.log.error('a frame failed', { type: frame?.type, error });
    const body = errorBody(error);
    const wait = retryAfter(error);
    this.#send({
      type: 'error',
      status: statusOf(error),
      error: body,
      // The OpenAI clients' own type for this frame has these at the top.
      code: body.code,
      message: body.message,
      param: body.param,
      sequence_number: 0,
      ...(wait !== undefined && { retry_after: wait }),
      ...(frame?.event_id !== undefined && { event_id: frame.event_id }),
    });
  }

  #send(event: Record<string, unknown>): void {
    if (this.#ws.readyState !== this.#ws.OPEN) return;
    this.#ws.send(JSON.stringify(event));
    if (this.#ws.bufferedAmount > UNSENT_BYTES_AT_MOST) {
      this.#options.log.warn('a socket reads too slowly; closing it', { unsent_bytes: this.#ws.bufferedAmount });
      this.#ws.terminate();
    }
  }
}

function toFrame(data: RawData, binary: boolean): Frame {
  if (binary) throw invalid('', 'frames are JSON text, not binary');
  const bytes = Array.isArray(data) ? Buffer.concat(data) : data instanceof ArrayBuffer ? new Uint8Array(data) : data;
  const frame = parseJson(bytes);
  if (typeof frame !== 'object' || frame === null || Array.isArray(frame)) {
    throw invalid('', 'a frame must be a JSON object');
  }
  if (typeof (frame as Frame).type !== 'string') throw invalid('type', 'type must be a string');
  return frame as Frame;
}

const REASONS: Record<number, string> = { 401: 'Unauthorized', 403: 'Forbidden', 404: 'Not Found' };

function refuse(socket: Duplex, error: LearndError): void {
  const status = statusOf(error);
  const body = JSON.stringify({ error: errorBody(error) });
  const head = [
    `HTTP/1.1 ${status} ${REASONS[status] ?? 'Service Unavailable'}`,
    'content-type: application/json',
    `content-length: ${Buffer.byteLength(body)}`,
    'connection: close',
    ...(status === 401 ? ['www-authenticate: Bearer'] : []),
  ];
  socket.end(`${head.join('\r\n')}\r\n\r\n${body}`);
}
