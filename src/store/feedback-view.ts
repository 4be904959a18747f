import type { ChatMessage } from '../events/exchange.ts';
import type { Queryable } from './database.ts';
import type { TaskLabels } from './round-rows.ts';

/**
 * Views of what people said about answers: corrections, preferences and ratings. The monitor has no figure to take from them, so
 * they may be trained on as soon as they are stored.
 */
export type Said = 'correction' | 'preference' | 'rating';

/**
 * An answer is its reader's: feedback about an exchange counts only with the exchange's own user (or where the exchange names none),
 * else one person's words would be in another's privacy unit.
 */
const MAY_TRAIN = `f.split = 'train' and f.excluded is null
  and (x.response_id is null or x.user_id is null or x.user_id is not distinct from f.user_id)
  and (f.kind <> 'rating' or x.status in ('completed', 'incomplete'))
  and (f.kind <> 'correction' or f.prompt is not null or x.response_id is not null)`;

const FROM = 'feedback f left join exchanges x on x.response_id = f.response_id';

/** Rows that a view of each kind could take, over all units. */
export async function eligible(
  db: Queryable,
  tasks: readonly TaskLabels[],
): Promise<Readonly<Record<Said | 'label', number>>> {
  const { rows } = await db.query<{ kind: Said; n: number }>(
    `select f.kind, count(*) as n from ${FROM} where f.kind <> 'label' and ${MAY_TRAIN} group by f.kind`,
  );
  let label = 0;
  for (const task of tasks) {
    const found = await db.query<{ n: number }>(
      `select count(*) as n from feedback where kind = 'label' and task = $1 and label = any($2) and text is not null
         and split = 'train' and excluded is null and scored_at is not null`,
      [task.name, task.labels],
    );
    label += found.rows[0]!.n;
  }
  const of = (kind: Said): number => rows.find(row => row.kind === kind)?.n ?? 0;
  return { label, correction: of('correction'), preference: of('preference'), rating: of('rating') };
}

/** Freezes the rows of these kinds, at most `perUnit` newest of each unit; how many the view holds of them. */
export async function freezeSaid(
  db: Queryable,
  round: number,
  kinds: readonly Said[],
  perUnit: number,
): Promise<number> {
  await db.query(
    `insert into round_rows (round, kind, row_id)
     select $1, 'feedback', id from (
       select f.id, row_number() over (partition by f.unit order by f.received_at desc, f.id desc) as nth
       from ${FROM} where f.kind = any($2) and ${MAY_TRAIN}) as r
     where nth <= $3
     on conflict do nothing`,
    [round, kinds, perUnit],
  );
  return (await viewSaid(db, round, kinds)).length;
}

export interface SaidRow {
  readonly unit: string;
  readonly kind: Said;
  /** The conversation up to the answer it is about. */
  readonly messages: readonly ChatMessage[];
  /** The answer served; of ratings. */
  readonly answer: string | null;
  /** The answer ended by itself. */
  readonly whole: boolean;
  readonly liked: boolean | null;
  readonly ideal: string | null;
  readonly chosen: string | null;
  readonly rejected: string | null;
}

/** Turns of a conversation looked back at. */
const TURNS = 16;

interface Turn {
  readonly id: number;
  readonly depth: number;
  readonly instructions: string | null;
  /** Messages, or the plain prompt. */
  readonly input: readonly ChatMessage[] | string;
  readonly output: string;
  readonly status: string;
}

/** Rows of the view, by unit; what was erased or excluded after it was frozen is gone. */
export async function viewSaid(db: Queryable, round: number, kinds: readonly Said[]): Promise<SaidRow[]> {
  const { rows } = await db.query<{
    id: number;
    unit: string;
    kind: Said;
    prompt: string | null;
    ideal: string | null;
    chosen: string | null;
    rejected: string | null;
    value: number | null;
  }>(
    `select f.id, f.unit, f.kind, f.prompt, f.ideal, f.chosen, f.rejected, f.value
     from round_rows r join feedback f on f.id = r.row_id left join exchanges x on x.response_id = f.response_id
     where r.round = $1 and r.kind = 'feedback' and f.kind = any($2) and ${MAY_TRAIN}
     order by f.unit, f.id`,
    [round, kinds],
  );
  const turns = await turnsOf(db, round, kinds);
  return rows.flatMap(({ id, prompt, value, ...row }) => {
    const chain = turns.get(id);
    const last = chain?.at(-1);
    if (row.kind === 'rating' && last === undefined) return [];
    const messages = chain === undefined ? [{ role: 'user' as const, content: prompt ?? '' }] : messagesOf(chain);
    return [
      {
        ...row,
        messages,
        answer: row.kind === 'rating' ? last!.output : null,
        whole: last?.status !== 'incomplete',
        liked: value === null ? null : value > 0,
      },
    ];
  });
}

/** The exchange of each row and what it went on from, oldest first; a turn of another user ends it. */
async function turnsOf(db: Queryable, round: number, kinds: readonly Said[]): Promise<Map<number, Turn[]>> {
  const { rows } = await db.query<Turn>(
    `with recursive chain as (
       select f.id, 0 as depth, x.previous_response_id, x.user_id, x.instructions, x.input, x.output, x.status
       from round_rows r join feedback f on f.id = r.row_id join exchanges x on x.response_id = f.response_id
       where r.round = $1 and r.kind = 'feedback' and f.kind = any($2)
       union all
       select c.id, c.depth + 1, p.previous_response_id, p.user_id, p.instructions, p.input, p.output, p.status
       from chain c join exchanges p on p.response_id = c.previous_response_id
       where c.depth < ${TURNS} and p.user_id is not distinct from c.user_id)
     select id, depth, instructions, input, output, status from chain order by id, depth desc`,
    [round, kinds],
  );
  const byRow = new Map<number, Turn[]>();
  for (const turn of rows) byRow.set(turn.id, [...(byRow.get(turn.id) ?? []), turn]);
  return byRow;
}

/** As served (serve/answer.ts): instructions of earlier turns do not carry over. */
function messagesOf(chain: readonly Turn[]): ChatMessage[] {
  const { instructions, input } = chain.at(-1)!;
  return [
    ...(instructions === null ? [] : [{ role: 'system' as const, content: instructions }]),
    ...chain.slice(0, -1).flatMap(turn => [...asked(turn.input), { role: 'assistant' as const, content: turn.output }]),
    ...asked(input),
  ];
}

const asked = (input: Turn['input']): readonly ChatMessage[] =>
  typeof input === 'string' ? [{ role: 'user', content: input }] : input;
