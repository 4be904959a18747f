import type { Exchange } from '../events/exchange.ts';
import type { Queryable } from './database.ts';
import { loadExchange } from './exchanges.ts';

/** In the transaction that saves the exchange. */
export async function queueExchange(db: Queryable, responseId: string): Promise<void> {
  await db.query('insert into exchange_outbox (response_id) values ($1) on conflict do nothing', [responseId]);
}

/** Takes some off the queue, oldest first; they are back on it if the transaction fails. Those another process holds are passed over. */
export async function takeExchanges(db: Queryable, limit: number): Promise<Exchange[]> {
  const { rows } = await db.query<{ response_id: string }>(
    `with taken as (
       select q.response_id, x.created_at from exchange_outbox q join exchanges x using (response_id)
       order by x.created_at limit $1 for update of q skip locked),
     gone as (delete from exchange_outbox q using taken where q.response_id = taken.response_id)
     select response_id from taken order by created_at`,
    [limit],
  );
  const exchanges = await Promise.all(rows.map(row => loadExchange(db, row.response_id)));
  return exchanges.filter(exchange => exchange !== undefined);
}
