import type pg from 'pg';
import { sleep } from '../base/clock.ts';
import type { Log } from '../base/log.ts';

export interface Listener {
  listen(channel: string, fn: (payload: string) => void): Promise<() => Promise<void>>;
  stop(): Promise<void>;
}

/** One session for all channels, made at the first `listen`, made again whenever it is lost. */
export function startListener(options: { session: () => Promise<pg.Client>; log: Log }): Listener {
  const { log } = options;
  const channels = new Map<string, Set<(payload: string) => void>>();
  const stopped = new AbortController();
  let client: pg.Client | undefined;
  let connecting: Promise<void> | undefined;

  const quote = (channel: string) => `"${channel.replaceAll('"', '""')}"`;

  /** One try; a failure is left to `reconnect`. */
  const connectOnce = async (): Promise<boolean> => {
    let made: pg.Client | undefined;
    try {
      made = await options.session();
      for (const channel of channels.keys()) await made.query(`listen ${quote(channel)}`);
    } catch (error) {
      log.debug('cannot listen yet', { error });
      await made?.end().catch(() => undefined);
      return false;
    }
    if (stopped.signal.aborted) {
      await made.end().catch(() => undefined);
      return true;
    }
    client = made;
    made.on('notification', message => {
      for (const fn of channels.get(message.channel) ?? []) {
        try {
          fn(message.payload ?? '');
        } catch (error) {
          log.error('a listener failed', { channel: message.channel, error });
        }
      }
    });
    const current = made;
    made.once('end', () => {
      if (client !== current) return;
      client = undefined;
      void reconnect(100);
    });
    return true;
  };

  const reconnect = async (firstWait: number): Promise<void> => {
    for (let wait = firstWait; !stopped.signal.aborted; wait = Math.min(5_000, wait * 2)) {
      await sleep(wait, stopped.signal);
      if (stopped.signal.aborted || client) return;
      if (await connectOnce()) return;
    }
  };

  const ensure = (): Promise<void> => {
    connecting ??= (async () => {
      if (!(await connectOnce())) void reconnect(100);
    })();
    return connecting;
  };

  return {
    listen: async (channel, fn) => {
      const known = channels.get(channel);
      if (known) known.add(fn);
      else {
        channels.set(channel, new Set([fn]));
        const running = client;
        // A failure here ends the session, and the next one listens to every channel.
        if (running) await running.query(`listen ${quote(channel)}`).catch(() => undefined);
        else await ensure();
        // `ensure` may have been under way before this channel was known.
        if (!running) await client?.query(`listen ${quote(channel)}`).catch(() => undefined);
      }
      return async () => {
        const set = channels.get(channel);
        set?.delete(fn);
        if (set?.size === 0) {
          channels.delete(channel);
          await client?.query(`unlisten ${quote(channel)}`).catch(() => undefined);
        }
      };
    },
    stop: async () => {
      stopped.abort();
      await connecting;
      const current = client;
      client = undefined;
      channels.clear();
      await current?.end().catch(() => undefined);
    },
  };
}
