/**
 * Exchanges on their way to the store. An answer never fails because the store is down: what cannot be saved waits in bounded memory
 * and is tried again, and the recent ones can be continued (`previous_response_id`) from memory meanwhile. Once stored, the store is
 * asked: an exchange that has been erased there must not live on here.
 */
import { sleep } from '../base/clock.ts';
import { oneLine } from '../base/errors.ts';
import { type Log, silentLog } from '../base/log.ts';
import type { Exchange, ServePorts } from './ports.ts';

const WAITING_AT_MOST = 1_000;
const REMEMBERED = 500;
const RETRY_FIRST_MS = 200;
const RETRY_MOST_MS = 10_000;

export class Exchanges {
  readonly #ports: Pick<ServePorts, 'saveExchange' | 'loadExchange'>;
  readonly #log: Log;
  readonly #recent = new Map<string, Exchange>();
  /** Ids of recent ones that are not in the store yet. */
  readonly #unstored = new Set<string>();
  readonly #waiting: Exchange[] = [];
  readonly #stop = new AbortController();
  #retrying: Promise<void> | undefined;
  #dropped = 0;
  #trouble: string | undefined;

  constructor(ports: Pick<ServePorts, 'saveExchange' | 'loadExchange'>, log: Log = silentLog) {
    this.#ports = ports;
    this.#log = log;
  }

  /** Why exchanges are not being stored, for /readyz; undefined while they are. */
  get trouble(): string | undefined {
    if (this.#waiting.length === 0) return undefined;
    const lost = this.#dropped === 0 ? '' : `, ${this.#dropped} lost`;
    return `${this.#waiting.length} answers wait to be stored${lost}: ${this.#trouble}`;
  }

  /** Resolves when it is stored, or after `patienceMs`: it is then stored later. Never throws. */
  async save(exchange: Exchange, patienceMs = 2_000): Promise<void> {
    this.#recent.set(exchange.responseId, exchange);
    this.#unstored.add(exchange.responseId);
    if (this.#recent.size > REMEMBERED) this.#forget(this.#recent.keys().next().value!);
    if (this.#retrying !== undefined) return this.#queue(exchange); // behind those that wait already
    const saved = this.#ports.saveExchange(exchange).then(
      () => this.#unstored.delete(exchange.responseId),
      error => {
        this.#trouble = oneLine(error);
        this.#queue(exchange);
      },
    );
    await Promise.race([saved, sleep(patienceMs)]);
  }

  async load(responseId: string): Promise<Exchange | undefined> {
    const recent = this.#recent.get(responseId);
    if (recent !== undefined && this.#unstored.has(responseId)) return recent;
    let stored: Exchange | undefined;
    try {
      stored = await this.#ports.loadExchange(responseId);
    } catch (error) {
      if (recent !== undefined) return recent;
      throw error;
    }
    if (stored === undefined) this.#forget(responseId);
    return stored;
  }

  #forget(responseId: string): void {
    this.#recent.delete(responseId);
    this.#unstored.delete(responseId);
  }

  /** One last try for those that wait; what is then still not stored is reported and given up. */
  async close(): Promise<void> {
    this.#stop.abort();
    await this.#retrying;
    const lost = this.#waiting.length + this.#dropped;
    if (lost > 0) this.#log.error('answers could not be stored', { lost, reason: this.#trouble });
  }

  #queue(exchange: Exchange): void {
    this.#waiting.push(exchange);
    if (this.#waiting.length > WAITING_AT_MOST) {
      this.#waiting.shift();
      this.#dropped++;
    }
    if (this.#stop.signal.aborted) return;
    this.#retrying ??= this.#retry();
  }

  async #retry(): Promise<void> {
    this.#log.warn('an answer could not be stored; trying again', { reason: this.#trouble });
    let wait = RETRY_FIRST_MS;
    while (this.#waiting.length > 0) {
      await sleep(wait, this.#stop.signal);
      try {
        while (this.#waiting.length > 0) {
          const first = this.#waiting[0]!;
          await this.#ports.saveExchange(first);
          this.#unstored.delete(first.responseId);
          if (this.#waiting[0] === first) this.#waiting.shift();
        }
      } catch (error) {
        this.#trouble = oneLine(error);
        if (this.#stop.signal.aborted) break;
        wait = Math.min(RETRY_MOST_MS, wait * 2);
      }
    }
    this.#retrying = undefined; // in the same turn as the last look at the queue, so that nothing is left waiting
    if (this.#waiting.length === 0) this.#log.info('all answers are stored again', { lost: this.#dropped });
  }
}
