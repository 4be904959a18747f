import pg from 'pg';
import { sleep } from '../base/clock.ts';
import { asLearndError, LearndError } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import { startListener } from './listener.ts';

/**
 * The one client of PostgreSQL. Values come back as: int8 -> number (ids stay below 2^53), timestamptz -> Date, jsonb -> parsed,
 * bytea -> Buffer, numeric -> string. A value for a jsonb column goes in through `json(value)`: pg would make a PostgreSQL
 * array of a JavaScript array.
 */

export type Row = Record<string, unknown>;

export interface Result<R> {
  rows: R[];
  /** Rows touched: for insert, update and delete without `returning` as well. */
  rowCount: number;
}

/** A pool or a transaction. */
export interface Queryable {
  /** @throws LearndError('dependency') when the server cannot be reached; pg's DatabaseError (`code` = SQLSTATE) otherwise. */
  query<R = Row>(text: string, values?: readonly unknown[]): Promise<Result<R>>;
}

export interface Database extends Queryable {
  /**
   * Runs `work` in one transaction; it runs again, up to 8 times, after a serialization failure or a deadlock, so it must
   * touch nothing but the database. A lost connection is not retried: the commit may have happened. Every insert that must
   * not double therefore has a key and ON CONFLICT.
   */
  tx<T>(work: (db: Queryable) => Promise<T>, options?: { isolation?: 'repeatable read' | 'serializable' }): Promise<T>;
  /**
   * Calls `fn(payload)` for every notification on `channel`. Resolves when it listens, or when the first try failed (it goes on
   * trying, and notifications of that time are lost: poll as well). The returned function stops it.
   */
  listen(channel: string, fn: (payload: string) => void): Promise<() => Promise<void>>;
  /** A client of its own, outside the pool, for what lives as long as a session does (locks). The caller ends it. */
  session(): Promise<pg.Client>;
  /** Clients taken from the pool and not given back: 0 when nothing is going on. */
  readonly busy: number;
  close(): Promise<void>;
}

/** What a state change is about; everyone who reacts listens to channel `learnd` and polls besides. */
export type Topic = 'events' | 'policy' | 'round' | 'alias';
export const CHANNEL = 'learnd';

/** In the transaction of the change itself: it is delivered on commit, and not at all on rollback. */
export async function notify(db: Queryable, topic: Topic): Promise<void> {
  await db.query('select pg_notify($1, $2)', [CHANNEL, topic]);
}

/** Text as PostgreSQL can hold it: a NUL and half a surrogate pair become U+FFFD. */
export const storable = (text: string): string =>
  text.replace(/\0|[\uD800-\uDBFF](?![\uDC00-\uDFFF])|(?<![\uD800-\uDBFF])[\uDC00-\uDFFF]/g, '\uFFFD');

/** A value as the text of a jsonb parameter; strings in it are made `storable`. */
export const json = (value: unknown): string =>
  JSON.stringify(value ?? null, (_, entry) => (typeof entry === 'string' ? storable(entry) : entry));

const types = {
  getTypeParser: ((oid: number, format: 'text' | 'binary') =>
    oid === pg.types.builtins.INT8 && format !== 'binary'
      ? Number
      : pg.types.getTypeParser(oid, format as 'text')) as typeof pg.types.getTypeParser,
};

const RETRY = new Set(['40001', '40P01']);

/** `url` without its password, for messages. */
export function withoutPassword(url: string): string {
  try {
    const parsed = new URL(url);
    if (parsed.password !== '') parsed.password = '***';
    return parsed.toString();
  } catch {
    return 'the database URL';
  }
}

/** Lost or refused connections as `dependency`; anything else as it is. */
export function connectionError(thrown: unknown, where: string): unknown {
  if (thrown instanceof LearndError || !(thrown instanceof Error)) return thrown;
  const code = (thrown as { code?: string }).code;
  const message = thrown.message === '' && code !== undefined ? code : thrown.message;
  const refused = (what: string, hint: string, retriable: boolean) =>
    new LearndError('dependency', `PostgreSQL at ${where}: ${what}`, { hint, retriable, cause: thrown });
  switch (code) {
    case '28P01':
    case '28000':
    case '3D000':
    case '42501':
      return refused(message, 'Check user, password, database and rights in DATABASE_URL', false);
    case '53100':
    case '58030':
      return refused(message, 'Free space on the disk of the database', true);
    case '22021':
    case '22P05':
      return new LearndError('invalid', `text that PostgreSQL cannot store (a NUL character): ${message}`, {
        cause: thrown,
      });
  }
  const lost =
    (code !== undefined &&
      (/^(08...|57P0[1235]|53300)$/.test(code) || /^(E[A-Z]+|CERT_.*|DEPTH_.*|SELF_.*)$/.test(code))) ||
    /connection terminated|timeout exceeded when trying to connect|client has encountered a connection error|not queryable|server does not support ssl/i.test(
      message,
    );
  return lost ? refused(message, 'Is it running and reachable?', true) : thrown;
}

/** Opens nothing yet: the first query connects. See `waitForDatabase`. */
export function connect(url: string, options: { log: Log; max?: number }): Database {
  const where = withoutPassword(url);
  const log = options.log.child('database');
  const config: pg.ClientConfig = {
    connectionString: url,
    application_name: 'learnd',
    keepAlive: true,
    types,
  };
  const pool = new pg.Pool({
    ...config,
    max: options.max ?? 10,
    connectionTimeoutMillis: 10_000,
    idleTimeoutMillis: 30_000,
    allowExitOnIdle: true,
  });
  // An idle client whose server dies emits 'error'; without a handler that ends the process.
  pool.on('error', error => log.debug('idle connection lost', { error }));
  pool.on('connect', client => client.on('error', error => log.debug('connection lost', { error })));

  const session = async (): Promise<pg.Client> => {
    const client = new pg.Client({ ...config, connectionTimeoutMillis: 10_000 });
    client.on('error', error => log.debug('session lost', { error }));
    try {
      await client.connect();
    } catch (thrown) {
      await client.end().catch(() => undefined);
      throw connectionError(thrown, where);
    }
    return client;
  };
  const listener = startListener({ session, log });

  const run = async <R>(on: pg.Pool | pg.PoolClient, text: string, values?: readonly unknown[]): Promise<Result<R>> => {
    try {
      const result = await on.query(text, values as unknown[] | undefined);
      return { rows: result.rows as R[], rowCount: result.rowCount ?? 0 };
    } catch (thrown) {
      throw connectionError(thrown, where);
    }
  };

  const once = async <T>(work: (db: Queryable) => Promise<T>, begin: string): Promise<T> => {
    let client: pg.PoolClient;
    try {
      client = await pool.connect();
    } catch (thrown) {
      throw connectionError(thrown, where);
    }
    let broken: Error | undefined;
    try {
      await run(client, begin);
      const value = await work({ query: (text, values) => run(client, text, values) });
      await run(client, 'commit');
      return value;
    } catch (thrown) {
      // The error that ended the work is the one to report; a client that cannot roll back is thrown away.
      await client.query('rollback').catch((error: Error) => {
        broken = error;
      });
      throw thrown;
    } finally {
      client.release(broken);
    }
  };

  let closing: Promise<void> | undefined;
  return {
    query: (text, values) => run(pool, text, values),
    tx: async (work, { isolation } = {}) => {
      const begin = isolation ? `begin isolation level ${isolation}` : 'begin';
      for (let n = 1; ; n++) {
        try {
          return await once(work, begin);
        } catch (thrown) {
          if (n >= 8 || !RETRY.has((thrown as { code?: string }).code ?? '')) throw thrown;
          log.debug('transaction tried again', { n, error: thrown });
          await sleep(5 * 2 ** n);
        }
      }
    },
    listen: listener.listen,
    session,
    get busy() {
      return pool.totalCount - pool.idleCount;
    },
    close: () => {
      closing ??= (async () => {
        await listener.stop();
        await pool.end();
      })();
      return closing;
    },
  };
}

/**
 * Waits until the server answers, with doubling waits from 50 ms to 2 s.
 * @throws the last LearndError('dependency') after `forMs`, or at once when waiting cannot help (wrong password).
 */
export async function waitForDatabase(
  db: Queryable,
  options: { log: Log; forMs?: number; signal?: AbortSignal; onWait?: (error: LearndError) => void },
): Promise<void> {
  const until = Date.now() + (options.forMs ?? 60_000);
  let said = false;
  for (let wait = 50; ; wait = Math.min(2_000, wait * 2)) {
    try {
      await db.query('select 1');
      if (said) options.log.info('database reachable');
      return;
    } catch (thrown) {
      const error = asLearndError(thrown);
      if (!error.retriable || Date.now() + wait > until || options.signal?.aborted) throw error;
      options.onWait?.(error);
      if (!said) options.log.warn('waiting for the database', { error });
      said = true;
      await sleep(wait, options.signal);
    }
  }
}
