import type { ServerResponse } from 'node:http';

/** A reader so slow that this much waits for it is let go: memory is bounded by it. */
export const UNSENT_BYTES_AT_MOST = 4 << 20;

/** Server-sent events. The head is sent with the first event, so that an error before it is still an ordinary answer. */
export class EventStream {
  readonly #response: ServerResponse;

  constructor(response: ServerResponse) {
    this.#response = response;
  }

  get started(): boolean {
    return this.#response.headersSent;
  }

  /** A string is sent as it is, anything else as JSON. */
  send(data: unknown, event?: string): void {
    if (this.#response.destroyed) return;
    if (!this.#response.headersSent) {
      this.#response.writeHead(200, {
        'content-type': 'text/event-stream; charset=utf-8',
        'cache-control': 'no-store',
        'x-accel-buffering': 'no',
      });
    }
    const text = typeof data === 'string' ? data : JSON.stringify(data);
    this.#response.write(`${event === undefined ? '' : `event: ${event}\n`}data: ${text}\n\n`);
    if (this.#response.writableLength > UNSENT_BYTES_AT_MOST) this.#response.destroy();
  }

  end(): void {
    this.#response.end();
  }
}
