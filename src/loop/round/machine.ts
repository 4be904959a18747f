import { asLearndError, LearndError, oneLine } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';
import { retry } from '../../base/retry.ts';
import type { OutData, OutType } from '../../events/out.ts';
import type { Database, Queryable } from '../../store/database.ts';
import { changeRound, countAttempt, getRound, type RoundRow, type RoundState } from '../../store/rounds.ts';

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
    // `evaluated` and `published`: rounds that only measure or move an alias train nothing and have no candidate.
    to: ['reserved', 'evaluated', 'published', 'refused', 'failed'],
  },
  reserved: {
    done: 'the view is frozen and the privacy cost reserved',
    step: 'train',
    to: ['trained', 'refused', 'failed'],
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
   * reservation back. Returns the epsilon of the round alone.
   */
  readonly settle: (tx: Queryable, round: RoundRow) => Promise<number | undefined>;
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
    outcome = failure(new LearndError('internal', `${step} did not finish in ${ctx.attempts} tries`));
  else {
    log.info(step, { round: round.id, attempt: round.attempts });
    try {
      outcome = await ctx.steps[step](round, signal);
    } catch (thrown) {
      if (signal.aborted) {
        // Being told to stop is no failed try.
        await countAttempt(ctx.db, round, ctx.fence, -1);
        throw new LearndError('canceled', `round ${round.id} was interrupted during ${step}`, { cause: thrown });
      }
      const error = asLearndError(thrown);
      if (error.retriable && round.attempts < ctx.attempts) {
        log.warn(`${step} failed, trying again`, { round: round.id, attempt: round.attempts, error });
        return await getRound(ctx.db, round.id);
      }
      log.error(`${step} failed`, { round: round.id, error });
      outcome = failure(error);
    }
  }
  if (!entry.to.includes(outcome.to))
    throw new LearndError('internal', `the step ${step} cannot lead from ${round.state} to ${outcome.to}`);
  return await write(ctx, round, outcome, signal);
}

const failure = (error: LearndError): Outcome => ({
  to: error.code === 'budget_exhausted' ? 'refused' : 'failed',
  error: oneLine(error),
});

/** A minute of a database away must not cost twenty minutes of training: the outcome is kept and the write tried again. */
async function write(ctx: MachineContext, round: RoundRow, outcome: Outcome, signal: AbortSignal): Promise<RoundRow> {
  return await retry(
    async n => {
      try {
        return await ctx.db.tx(tx => writeOnce(ctx, tx, round, outcome));
      } catch (thrown) {
        // The commit may have happened and only its acknowledgement been lost.
        if (n > 1 && asLearndError(thrown).code === 'conflict') {
          const now = await getRound(ctx.db, round.id);
          if (now.state === outcome.to && now.fence === ctx.fence) return now;
        }
        throw thrown;
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
    work: { ...outcome.work, ...more.work },
    epsilon: more.epsilon ?? outcome.epsilon ?? settled,
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
