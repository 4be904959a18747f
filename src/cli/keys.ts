import { invalid } from '../base/errors.ts';
import type { DaemonClient } from './client.ts';
import { table } from './frame.ts';

/** `keys`, `keys create`, `keys revoke`: who may answer, send feedback, administer. */

export interface KeyItem {
  readonly id: string;
  readonly name: string;
  readonly scopes: readonly string[];
  readonly created_at: string;
  readonly revoked_at: string | null;
}

export interface NewKey {
  readonly id: string;
  readonly name: string;
  readonly scopes: readonly string[];
  /** The token itself: told this once. */
  readonly key: string;
}

export const list = async (client: DaemonClient): Promise<KeyItem[]> =>
  (await client.get('/v1/admin/keys')) as KeyItem[];

export async function create(name: string, scopes: string | undefined, client: DaemonClient): Promise<NewKey> {
  if (scopes === undefined) throw invalid('scopes', 'a key needs scopes: --scopes respond,feedback (or admin)');
  const wanted = scopes.split(',').map(scope => scope.trim());
  return (await client.post('/v1/admin/keys', { name, scopes: wanted })) as NewKey;
}

export const revoke = async (id: string, client: DaemonClient): Promise<KeyItem> =>
  (await client.post(`/v1/admin/keys/${encodeURIComponent(id)}/revoke`, {})) as KeyItem;

export const humanList = (items: KeyItem[]): string =>
  table([
    ['id', 'name', 'scopes', 'created', 'revoked'],
    ...items.map(k => [k.id, k.name, k.scopes.join(','), k.created_at, k.revoked_at]),
  ]);

export const humanNew = (key: NewKey): string =>
  `${key.key}\n(${key.name}, ${key.scopes.join(', ')}; shown this once; ends with: learnd keys revoke ${key.id})`;

export const humanRevoked = (key: KeyItem): string =>
  `${key.name} (${key.id}) is revoked; servers that knew it forget it within 10 seconds`;
