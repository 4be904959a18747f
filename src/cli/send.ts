import { sleep } from '../base/clock.ts';
import { asLearndError, invalid, LearndError } from '../base/errors.ts';
import { retry } from '../base/retry.ts';
import type { DaemonClient } from './client.ts';
import { type Entry, entries, type SendOptions } from './send-files.ts';

/**
 * `learnd send FILE…`: files as events. The same row of the same file has the same id whenever it is sent, so a broken-off send is
 * simply repeated.
 */

export interface Sent {
  /** Events that are stored now, those sent before included. */
  readonly sent: number;
}

interface Report {
  readonly accepted: number;
  readonly duplicates: number;
  readonly rejected: readonly { index: number; field: string; reason: string }[];
}

/** Half of the default limits of a batch, so that a daemon with tighter ones needs no telling. */
const BATCH = 500;
const BATCH_BYTES = 4 << 20;
const SAY_EVERY_MS = 2000;

type Client = Pick<DaemonClient, 'post'>;

/** A daemon that is starting or full says so; what was sent in vain can be sent again. */
async function post(client: Client, path: string, events: readonly unknown[]): Promise<Report> {
  const again = (error: unknown): boolean => {
    const { code, data } = asLearndError(error);
    return code === 'busy' || data?.status === 429 || data?.status === 503;
  };
  return retry(
    async () => {
      try {
        return (await client.post(path, events)) as Report;
      } catch (error) {
        if (!again(error)) throw error;
        throw new LearndError('busy', asLearndError(error).message, { cause: error });
      }
    },
    { attempts: 8, firstMs: 250, maxMs: 5000 },
  );
}

function refusal(entry: Entry, field: string, reason: string, more: number, sent: number): LearndError {
  const column = entry.columns[field.replace(/^data\./, '')];
  const where = column === undefined ? entry.where : `${entry.where}, column ${column}`;
  const others = more === 0 ? '' : `; ${more} more in this batch were refused`;
  return invalid(column ?? field, `${where}: ${reason}${others}`, {
    hint: `${sent} events are stored; mend the file and send it again: what is stored stays once`,
  });
}

/**
 * @param options.files paths, or `-` for standard input
 * @throws LearndError('invalid') naming file, row and column of what cannot be sent
 */
export async function run(
  options: SendOptions & { readonly files: readonly string[] },
  client: Client,
  io: { stdin?: NodeJS.ReadableStream; say?: (line: string) => void } = {},
): Promise<Sent> {
  const say = io.say ?? ((line: string) => process.stderr.write(`${line}\n`));
  let sent = 0;
  let duplicates = 0;
  let erased = 0;
  let said = Date.now();
  let batch: Entry[] = [];
  let bytes = 0;
  const flush = async (): Promise<void> => {
    const first = batch[0];
    if (first === undefined) return;
    const report = await post(
      client,
      first.path,
      batch.map(entry => entry.event),
    );
    const refused = report.rejected.filter(one => one.reason !== 'erased');
    sent += report.accepted + report.duplicates;
    duplicates += report.duplicates;
    erased += report.rejected.length - refused.length;
    const worst = refused[0];
    if (worst) throw refusal(batch[worst.index]!, worst.field, worst.reason, refused.length - 1, sent);
    batch = [];
    bytes = 0;
    if (Date.now() - said > SAY_EVERY_MS) {
      said = Date.now();
      say(`sent ${sent}`);
    }
  };
  for (const file of options.files) {
    for await (const entry of entries(file, options, io.stdin ?? process.stdin)) {
      const size = Buffer.byteLength(JSON.stringify(entry.event));
      const full = batch.length === BATCH || bytes + size > BATCH_BYTES || batch[0]?.path !== entry.path;
      if (batch.length > 0 && full) await flush();
      batch.push(entry);
      bytes += size;
    }
  }
  await flush();
  if (duplicates > 0) say(`${duplicates} of them had been sent before`);
  if (erased > 0) say(`${erased} more belong to users who were erased: not stored`);
  // One turn, so that what was said is out before the answer is.
  await sleep(0);
  return { sent };
}

export const human = ({ sent }: Sent): string => `sent ${sent} ${sent === 1 ? 'event' : 'events'}`;
