import type { Exchange } from '../events/exchange.ts';
import { json, type Queryable, storable } from './database.ts';

/** Saved once by its id; saving it again changes nothing. Characters PostgreSQL cannot store are replaced (`storable`). */
export async function saveExchange(db: Queryable, exchange: Exchange): Promise<void> {
  await db.query(
    `insert into exchanges (response_id, previous_response_id, version, api, user_id, instructions, input, output, status,
       incomplete_reason, usage, latency_ms, first_token_ms, metadata, created_at)
     values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, to_timestamp($15::double precision / 1000))
     on conflict (response_id) do nothing`,
    [
      exchange.responseId,
      exchange.previousResponseId ?? null,
      exchange.version,
      exchange.api,
      exchange.user === undefined ? null : storable(exchange.user),
      exchange.instructions === undefined ? null : storable(exchange.instructions),
      json(exchange.input),
      storable(exchange.output),
      exchange.status,
      exchange.incompleteReason ?? null,
      json({ input_tokens: exchange.inputTokens, output_tokens: exchange.outputTokens }),
      exchange.latencyMs,
      exchange.firstTokenMs ?? null,
      json(exchange.metadata),
      exchange.createdAt,
    ],
  );
}

interface Stored {
  response_id: string;
  previous_response_id: string | null;
  version: string;
  api: Exchange['api'];
  user_id: string | null;
  instructions: string | null;
  input: Exchange['input'];
  output: string;
  status: Exchange['status'];
  incomplete_reason: string | null;
  usage: { input_tokens: number; output_tokens: number };
  latency_ms: number | null;
  first_token_ms: number | null;
  metadata: Record<string, string> | null;
  created_at: Date;
}

export async function loadExchange(db: Queryable, responseId: string): Promise<Exchange | undefined> {
  const { rows } = await db.query<Stored>('select * from exchanges where response_id = $1', [responseId]);
  const row = rows[0];
  if (!row) return undefined;
  return {
    responseId: row.response_id,
    previousResponseId: row.previous_response_id ?? undefined,
    version: row.version,
    api: row.api,
    instructions: row.instructions ?? undefined,
    input: row.input,
    output: row.output,
    status: row.status,
    incompleteReason: row.incomplete_reason ?? undefined,
    user: row.user_id ?? undefined,
    metadata: row.metadata ?? {},
    inputTokens: row.usage.input_tokens,
    outputTokens: row.usage.output_tokens,
    createdAt: row.created_at.getTime(),
    latencyMs: row.latency_ms ?? 0,
    firstTokenMs: row.first_token_ms ?? undefined,
  };
}

/** Removes all of a user's exchanges; how many there were. */
export async function eraseExchanges(db: Queryable, user: string): Promise<number> {
  return (await db.query('delete from exchanges where user_id = $1', [user])).rowCount;
}
