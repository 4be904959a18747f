import { loadSettings } from '../../src/base/settings.ts';
import type { Exchange } from '../../src/events/exchange.ts';
import { type IngestOptions, type IngestSettings, ingest } from '../../src/loop/ingest/ingest.ts';
import type { Database } from '../../src/store/database.ts';
import { saveExchange } from '../../src/store/exchanges.ts';

/** Events as clients send them, and the way into the store: what the tests of ingest and of erasure share. */

export const secret = Buffer.from('the secret of the test');
export const settings: IngestSettings = {
  ...loadSettings({ env: {}, cwd: '/nonexistent' }),
  tasks: [{ name: 'intent', labels: ['card', 'transfer'] }],
  sources: [{ name: 'newsroom', public: true }],
};

let count = 0;
export const event = (type: string, data: object, id = `e${++count}`) => ({
  specversion: '1.0',
  id,
  source: 'test',
  type,
  data,
});
export const label = (text: string, more: object = {}, id?: string) =>
  event('learnd.feedback.label', { task: 'intent', text, label: 'card', user: 'anna', ...more }, id);
export const document = (text: string, more: object = {}, id?: string) =>
  event('learnd.document', { text, source: 'wire', ...more }, id);
export const send = (db: Database, events: unknown[], options: Partial<IngestOptions> = {}) =>
  ingest(db, settings, secret, events, { origin: 'http', ...options });
export const rows = async (db: Database, table: 'feedback' | 'documents') =>
  (await db.query(`select * from ${table} order by id`)).rows;

export const exchange = (db: Database, id: string, user: string | null, input: unknown, output: string) =>
  saveExchange(db, {
    responseId: id,
    previousResponseId: undefined,
    version: 'learnd@1',
    api: 'responses',
    instructions: undefined,
    input: (typeof input === 'string' ? [{ role: 'user', content: input }] : input) as Exchange['input'],
    output,
    status: 'completed',
    incompleteReason: undefined,
    user: user ?? undefined,
    metadata: {},
    inputTokens: 1,
    outputTokens: 1,
    createdAt: Date.now(),
    latencyMs: 1,
    firstTokenMs: 1,
  });
