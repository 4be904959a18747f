import { asLearndError, type ErrorCode, LearndError, oneLine } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';
import { retry } from '../../base/retry.ts';
import type { OutData, OutType } from '../../events/out.ts';
import type { Database, Queryable } from '../../store/database.ts';
import {
  changeRound,
  countAttempt,
  getRound,
  isLost,
  type RoundChange,
  type RoundRow,
  type RoundState,
} from '../../store/rounds.ts';

/**
 * The durable state machine of a round. A state is what has been done for good; the row of its table says which work leads on
 * and where to. A step's outcome and the new state are written in one transaction, so a daemon that was killed anywhere goes on
 * with the step that had not finished.
 */

export type StepName = 'plan' | 'train' | 'compress' | 'evaluate' | 'gate' | 'publish';

export interface Outcome {
  readonly to: RoundState;
  /** Merged into `rounds.work`; null removes a key. */
  readonly work?: Readonly<Record<string, unknown>>;
  readonly candidate?: number;
  readonly verdict?: unknown;
  readonly epsilon?: number;
  readonly error?: string;
  /** The round ends here although its state has a step: it only measured, or moved an alias. */
  readonly finished?: boolean;
  /** Written in the transaction of the new state, before it. May be run again; touches nothing but the database. */
  readonly commit?: (tx: Queryable) => Promise<Partial<Pick<Outcome, 'candidate' | 'epsilon' | 'work'>> | undefined>;
}

export type Step = (round: RoundRow, signal: AbortSignal) => Promise<Outcome>;

export interface StateRow {
  /** What has been done when a round is in this state. */
  readonly done: string;
  /** The work that leads on; none: the round has finished. */
  readonly step?: StepName;
  readonly to: readonly RoundState[];
}

export const STATES: Readonly<Record<RoundState, StateRow>> = {
  planned: {
    done: 'the decision is written',
    step: 'plan',
    // `compressed` and `published`: rounds that only measure or move an alias train nothing and have no candidate.
    to: ['reserved', 'compressed', 'published', 'refused', 'failed'],
  },
  reserved: {
    done: 'the view is frozen and the privacy cost reserved',
    step: 'train',
    // `rejected`: too little stood out of the noise for anything to be published.
    to: ['trained', 'rejected', 'refused', 'failed'],
  },
  trained: { done: 'trained parts are stored and the cost settled', step: 'compress', to: ['compressed', 'failed'] },
  compressed: { done: "the candidate's files are whole", step: 'evaluate', to: ['evaluated', 'failed'] },
  evaluated: { done: 'champion and candidate are measured', step: 'gate', to: ['admitted', 'rejected', 'failed'] },
  admitted: { done: 'the gate let the candidate through', step: 'publish', to: ['published', 'failed'] },
  rejected: { done: 'the champion stays', to: [] },
  published: { done: 'the alias names the candidate', to: [] },
  failed: { done: 'a step could not be done', to: [] },
  refused: { done: 'nothing was begun', to: [] },
};

/** Adds an announcement to the outbox, in the transaction of what it tells. */
export type Announce = <T extends OutType>(tx: Queryable, type: T, data: OutData[T]) => Promise<void>;

export interface MachineContext {
  readonly db: Database;
  readonly log: Log;
  /** Fencing token of this leader. */
  readonly fence: number;
  /** Tries of one step before the round fails. */
  readonly attempts: number;
  readonly steps: Readonly<Record<StepName, Step>>;
  /** The model's name: versions are `name@N`. */
  readonly name: string;
  readonly announce: Announce;
  /**
   * Called in the transaction that ends a round in `failed` or `refused`: settles what its training released, or gives the
   * reservation back. Returns the epsilon of the round alone, and what of its work must not stay.
   */
  readonly settle: (
    tx: Queryable,
    round: RoundRow,
  ) => Promise<{ epsilon: number; work: RoundChange['work'] } | undefined>;
}

/**
 * Runs the round to its end, from wherever it was left.
 * @throws LearndError('canceled') on `signal`, the round stays resumable; 'conflict' when another leader has taken it over;
 *   'dependency' when the database is away for long.
 */
export async function runRound(ctx: MachineContext, id: number, signal: AbortSignal): Promise<RoundRow> {
  let round = await getRound(ctx.db, id);
  while (round.finished_at === null) {
    if (signal.aborted) throw new LearndError('canceled', `round ${id} was interrupted in state ${round.state}`);
    round = await takeStep(ctx, round, signal);
  }
  return round;
}

async function takeStep(ctx: MachineContext, before: RoundRow, signal: AbortSignal): Promise<RoundRow> {
  const entry = STATES[before.state];
  if (!entry.step)
    throw new LearndError('corrupt', `round ${before.id} is in state ${before.state} and yet not finished`);
  const { step } = entry;
  const round = await countAttempt(ctx.db, before, ctx.fence);
  const log = ctx.log.child('round');
  let outcome: Outcome;
  if (round.attempts > ctx.attempts)
    outcome = failure(ctx, round, new LearndError('internal', `${step} did not finish in ${ctx.attempts} tries`));
  else {
    log.info(step, { round: round.id, attempt: round.attempts });
    try {
      outcome = await ctx.steps[step](round, signal);
    } catch (thrown) {
      if (signal.aborted) {
        // Being told to stop is no failed try; nor is a lead that was lost because the database went away for a moment.
        await retry(() => countAttempt(ctx.db, round, ctx.fence, -1), { attempts: 6, firstMs: 250, maxMs: 2_000 });
        throw new LearndError('canceled', `round ${round.id} was interrupted during ${step}`, { cause: thrown });
      }
      const error = asLearndError(thrown);
      if (isLost(error)) throw error;
      if (error.retriable && round.attempts < ctx.attempts) {
        log.warn(`${step} failed, trying again`, { round: round.id, attempt: round.attempts, error });
        return await getRound(ctx.db, round.id);
      }
      outcome = failure(ctx, round, error);
    }
  }
  if (!entry.to.includes(outcome.to))
    throw new LearndError('internal', `the step ${step} cannot lead from ${round.state} to ${outcome.to}`);
  try {
    return await write(ctx, round, outcome, signal);
  } catch (thrown) {
    const error = asLearndError(thrown);
    if (signal.aborted || error.retriable || isLost(error) || outcome.to === 'failed' || outcome.to === 'refused')
      throw error;
    // What the outcome's own rows refused: the budget, a version that cannot be promoted.
    return await write(ctx, round, failure(ctx, round, error), signal);
  }
}

/** What may stop a round before it has begun, through no fault of the program. */
const REFUSALS: ReadonlySet<ErrorCode> = new Set([
  'budget_exhausted',
  'unavailable_feature',
  'invalid',
  'forbidden',
  'conflict',
]);

function failure(ctx: MachineContext, round: RoundRow, error: LearndError): Outcome {
  const refused =
    round.state === 'planned' ? REFUSALS.has(error.code) : round.state === 'reserved' && error.code === 'conflict';
  const log = ctx.log.child('round');
  if (refused) log.warn('refused', { round: round.id, reason: error.message });
  else log.error('failed', { round: round.id, error });
  return {
    to: refused ? 'refused' : 'failed',
    error: oneLine(error),
    commit: async tx => {
      const { spent, limit, delta } = error.data ?? {};
      if (error.code === 'budget_exhausted')
        await ctx.announce(tx, 'learnd.budget.exhausted', {
          epsilon_spent: Number(spent),
          epsilon_limit: Number(limit),
          delta: Number(delta),
          reason: error.message,
        });
      return {};
    },
  };
}

/** A minute of a database away must not cost twenty minutes of training: the outcome is kept and the write tried again. */
async function write(ctx: MachineContext, round: RoundRow, outcome: Outcome, signal: AbortSignal): Promise<RoundRow> {
  return await retry(
    async n => {
      try {
        return await ctx.db.tx(tx => writeOnce(ctx, tx, round, outcome));
      } catch (thrown) {
        // The commit may have happened and only its acknowledgement been lost.
        const error = asLearndError(thrown);
        if (n > 1 && error.code === 'conflict') {
          const now = await getRound(ctx.db, round.id);
          if (now.state === outcome.to && now.fence === ctx.fence) return now;
        }
        throw error;
      }
    },
    { attempts: 8, firstMs: 250, maxMs: 15_000, signal },
  );
}

async function writeOnce(ctx: MachineContext, tx: Queryable, round: RoundRow, outcome: Outcome): Promise<RoundRow> {
  const more = (await outcome.commit?.(tx)) ?? {};
  const finished = STATES[outcome.to].step === undefined || outcome.finished === true;
  const unsuccessful = outcome.to === 'failed' || outcome.to === 'refused';
  const settled = unsuccessful ? await ctx.settle(tx, round) : undefined;
  const row = await changeRound(tx, round.id, {
    ...outcome,
    ...more,
    work: { ...outcome.work, ...more.work, ...settled?.work },
    epsilon: more.epsilon ?? outcome.epsilon ?? settled?.epsilon,
    from: round.state,
    fence: ctx.fence,
    finished,
  });
  if (finished) await ctx.announce(tx, 'learnd.round.finished', summary(ctx.name, row));
  else await ctx.announce(tx, 'learnd.round.progressed', { round: row.id, state: row.state, progress: null });
  return row;
}

const summary = (name: string, round: RoundRow): OutData['learnd.round.finished'] => ({
  round: round.id,
  state: round.state,
  candidate: round.candidate === null ? null : `${name}@${round.candidate}`,
  verdict: round.verdict,
  epsilon: round.epsilon,
});
