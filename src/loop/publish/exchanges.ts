import { TOPICS } from '../../events/out.ts';
import type { Database } from '../../store/database.ts';
import { takeExchanges } from '../../store/exchange-outbox.ts';
import type { PublishLog } from './index.ts';

const BATCH = 50;

/**
 * Publishes the exchanges that wait (settings `kafka.exchanges`), at least once, keyed by their user. Their text goes out as it was said:
 * who opts in answers for the topic's readers and retention.
 * @returns how many
 */
export async function publishExchanges(db: Database, log: PublishLog, options: { name: string }): Promise<number> {
  for (let total = 0; ; ) {
    const done = await db.tx(async tx => {
      const exchanges = await takeExchanges(tx, BATCH);
      for (const exchange of exchanges) {
        const { responseId, createdAt, user, ...rest } = exchange;
        const event = {
          specversion: '1.0',
          id: responseId,
          source: `/learnd/${options.name}`,
          type: 'learnd.exchange',
          time: new Date(createdAt).toISOString(),
          datacontenttype: 'application/json',
          data: {
            response_id: responseId,
            previous_response_id: rest.previousResponseId,
            version: rest.version,
            user,
            instructions: rest.instructions,
            input: rest.input,
            output: rest.output,
            status: rest.status,
            usage: { input_tokens: rest.inputTokens, output_tokens: rest.outputTokens },
          },
        };
        await log.publish(TOPICS.exchanges, user ?? responseId, JSON.stringify(event));
      }
      return exchanges.length;
    });
    total += done;
    if (done < BATCH) return total;
  }
}
