import type { DaemonClient } from './client.ts';

/** Commands that change something in a running daemon. */

export interface Alias {
  readonly alias: string;
  readonly version: string;
  readonly previous: string | null;
}

export const promote = async (version: string, client: DaemonClient): Promise<Alias> =>
  (await client.post(`/v1/admin/versions/${encodeURIComponent(version)}/promote`, {})) as Alias;

export const rollback = async (version: string | undefined, client: DaemonClient): Promise<Alias> =>
  (await client.post('/v1/admin/rollback', version === undefined ? {} : { version })) as Alias;

export const humanAlias = (a: Alias): string =>
  `${a.alias} is ${a.version}${a.previous === null ? '' : ` (was ${a.previous})`}`;

export const erase = async (
  user: string,
  reason: string | undefined,
  client: DaemonClient,
): Promise<Record<string, unknown>> =>
  (await client.post('/v1/admin/erase', { user, reason })) as Record<string, unknown>;

export const humanReceipt = (receipt: Record<string, unknown>): string => JSON.stringify(receipt, null, 2);
