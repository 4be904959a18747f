import type pg from 'pg';
import { sleep } from '../base/clock.ts';
import { LearndError } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import { connectionError, type Database, type Queryable } from './database.ts';

/**
 * One leader a database: whoever holds the advisory lock on a session of its own. A leader that only thinks it leads (a pause, a
 * cut network) is stopped by its fencing token: each leader takes the next number, and what an older number writes is refused.
 */
const LOCK = 0x1ea4_0002;
const BEAT_MS = 2_000;

export interface Leadership {
  /** Larger than that of every leader before. */
  readonly fence: number;
  /** Aborted when the session is lost, and on release. */
  readonly lost: AbortSignal;
  release(): Promise<void>;
}

/** Takes the lead if nobody has it. @throws LearndError('dependency') when the database is away. */
export async function tryLead(db: Database, log: Log): Promise<Leadership | undefined> {
  const session = await db.session();
  let fence: number | undefined;
  try {
    // The server, too, must notice a vanished leader: it frees the lock only when the session is dead to it.
    await session.query('set tcp_keepalives_idle = 5; set tcp_keepalives_interval = 2; set tcp_keepalives_count = 3');
    const { rows } = await session.query<{ held: boolean }>('select pg_try_advisory_lock($1) as held', [LOCK]);
    if (rows[0]?.held) {
      const next = await session.query<{ fence: number }>(`select nextval('fencing_token') as fence`);
      fence = next.rows[0]!.fence;
    }
  } catch (thrown) {
    await session.end().catch(() => undefined);
    throw connectionError(thrown, 'the address of the leader session');
  }
  if (fence === undefined) {
    await session.end();
    return undefined;
  }
  const lost = new AbortController();
  const lose = (error?: Error) => {
    if (!lost.signal.aborted && error) log.warn('leadership lost', { fence, error });
    lost.abort();
  };
  session.once('end', () => lose());
  session.once('error', lose);
  void beat(session, lost.signal, lose);
  log.info('leading', { fence });
  return {
    fence,
    lost: lost.signal,
    release: async () => {
      lost.abort();
      await session.end().catch(() => undefined);
    },
  };
}

/** A session that no longer answers is lost, even where no error ever arrives. */
async function beat(session: pg.Client, lost: AbortSignal, lose: (error: Error) => void): Promise<void> {
  while (!lost.aborted) {
    await sleep(BEAT_MS, lost);
    if (lost.aborted) return;
    const late = new AbortController();
    const answered = session.query('select 1').then(
      () => true,
      () => false,
    );
    const inTime = await Promise.race([answered, sleep(3 * BEAT_MS, late.signal).then(() => false)]);
    late.abort();
    if (!inTime && !lost.aborted) {
      lose(new Error('the session does not answer'));
      session.end().catch(() => undefined);
    }
  }
}

/** In a transaction: refuses when a newer leader exists. @throws LearndError('conflict') */
export async function checkFence(db: Queryable, fence: number): Promise<void> {
  const { rows } = await db.query<{ newest: number }>('select last_value as newest from fencing_token');
  if (rows[0]!.newest > fence)
    throw new LearndError('conflict', `leader ${fence} has been replaced by leader ${rows[0]!.newest}`, {
      retriable: false,
    });
}

/**
 * Runs `work` whenever this process leads, until stopped. `work` gets an abort signal for lost leadership and for stop, and
 * must return soon after; work that returns or throws by itself gives the lead up, and the campaign starts anew.
 */
export function campaign(
  db: Database,
  options: { log: Log; everyMs?: number; work: (leadership: { fence: number; signal: AbortSignal }) => Promise<void> },
): { stop(): Promise<void> } {
  const log = options.log.child('leader');
  const stopped = new AbortController();
  const turn = async (): Promise<void> => {
    const leadership = await tryLead(db, log);
    if (!leadership) return;
    try {
      const signal = AbortSignal.any([leadership.lost, stopped.signal]);
      await options.work({ fence: leadership.fence, signal });
    } finally {
      await leadership.release();
    }
  };
  const run = (async () => {
    while (!stopped.signal.aborted) {
      try {
        await turn();
      } catch (error) {
        if (!stopped.signal.aborted) log.warn('cannot lead', { error });
      }
      await sleep(options.everyMs ?? 1_000, stopped.signal);
    }
  })();
  return {
    stop: async () => {
      stopped.abort();
      await run;
    },
  };
}
