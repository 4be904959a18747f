import { asLearndError, oneLine } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';
import type { Settings } from '../../base/settings.ts';
import type { Seed } from '../../events/holdout.ts';
import { scoredText } from '../../learn/metrics/scored-text.ts';
import type { VersionFiles } from '../../learn/model/version.ts';
import type { Scorer } from '../../learn/worker/types.ts';
import { type AlarmSignal, clearAlarm, openAlarms, raiseAlarm } from '../../store/alarms.ts';
import type { Database, Queryable } from '../../store/database.ts';
import {
  type DocumentToScore,
  documentsToScore,
  getState,
  type LabelToScore,
  labelsToScore,
  putState,
  type ScoredKind,
  sampleOut,
  storeLikelihoods,
  storePredictions,
  waitingIds,
} from '../../store/monitor.ts';
import { appendEvent } from '../../store/outbox.ts';
import { sample, shuffled } from './sample.ts';
import { type Figures, Live, type LiveState, type Sizes } from './state.ts';
import type { WatchChange } from './watch.ts';

/** Waiting rows looked at in a turn; more of them wait for the next. */
const MOST_WAITING = 100_000;
/** Characters of documents scored in a turn (16k tokens, under a minute on two cores): long documents make the sample smaller. */
const MOST_CHARACTERS = 65_536;
/** A turn stops scoring each kind after so long, and passes over what it has not reached: a slow scorer must not keep rows from being learned. */
const MOST_MS = 20_000;
/** Rows in one call to the scorer. */
const AT_ONCE = 16;
const LIVE = 'monitor.live';
const seedKey = (version: number): string => `monitor.seed.${version}`;

export type MonitorSettings = Pick<Settings, 'name' | 'tasks' | 'monitor'>;

export interface Champion {
  /** The N of name@N. */
  readonly n: number;
  readonly files: VersionFiles;
}

export interface MonitorTurn {
  readonly figures: Figures;
  /** Rows scored, and rows passed over because more waited than a turn scores. */
  readonly scored: Readonly<Record<ScoredKind, number>>;
  readonly sampledOut: Readonly<Record<ScoredKind, number>>;
  readonly changes: ReadonlyArray<{ readonly signal: AlarmSignal; readonly change: 'raised' | 'cleared' }>;
}

/**
 * A version's own results on held-out data: what is normal for it once it is live. In the transaction that promotes it, or
 * before; a version without a seed takes its first live rows for normal.
 */
export const seedMonitor = (db: Queryable, version: number, seed: Seed): Promise<void> =>
  putState(db, seedKey(version), seed);

const sizes = (settings: MonitorSettings): Sizes => ({
  window: settings.monitor.window,
  minimum: Math.min(settings.monitor.minimum, settings.monitor.window),
});

/** Figures of the version the monitor last looked at; undefined before its first turn. */
export async function readFigures(db: Queryable, settings: MonitorSettings): Promise<Figures | undefined> {
  const state = await getState<LiveState>(db, LIVE);
  return state && Live.restore(state, sizes(settings)).figures();
}

interface Scored<R, S> {
  readonly row: R;
  readonly score: S;
}

type Score<R, S> = (rows: readonly R[]) => Promise<readonly S[]>;

/** Scores in one call; where that fails, one by one, so that a row no scorer can read is passed over instead of stopping everything. */
async function scoreSome<R, S>(rows: readonly R[], score: Score<R, S>, how: How): Promise<Array<Scored<R, S>>> {
  const together = async (some: readonly R[]) => {
    const scores = await score(some);
    return some.map((row, i) => ({ row, score: scores[i]! }));
  };
  const stopped = (error: unknown) => how.signal?.aborted || asLearndError(error).code === 'canceled';
  try {
    return await together(rows);
  } catch (thrown) {
    if (rows.length === 1 || stopped(thrown)) throw thrown;
    const done: Array<Scored<R, S>> = [];
    for (const row of rows) {
      try {
        done.push(...(await together([row])));
      } catch (error) {
        if (stopped(error)) throw error;
        how.log.warn(`a row could not be scored: ${oneLine(error)}`);
      }
    }
    if (done.length === 0) throw thrown;
    return done;
  }
}

interface How {
  readonly log: Log;
  readonly signal: AbortSignal | undefined;
  /** Performance clock: no further call after this. */
  readonly until: number;
}

/**
 * Scores in random order, a few at a time, until all are done or the time is up; what comes back is in the order of `id`.
 * @throws the scorer's error when nothing at all can be scored.
 */
async function scoreWithin<R extends { readonly id: number }, S>(
  rows: readonly R[],
  score: Score<R, S>,
  how: How,
): Promise<Array<Scored<R, S>>> {
  const mixed = shuffled(rows);
  const done: Array<Scored<R, S>> = [];
  let failure: unknown;
  for (let at = 0; at < mixed.length && performance.now() < how.until; at += AT_ONCE) {
    try {
      done.push(...(await scoreSome(mixed.slice(at, at + AT_ONCE), score, how)));
    } catch (error) {
      // A few that all fail may be the rows' fault; a scorer that has done nothing yet is at fault itself.
      if (done.length === 0 || how.signal?.aborted) throw error;
      failure = error;
    }
  }
  if (failure !== undefined) how.log.warn(`some rows could not be scored: ${oneLine(failure)}`);
  return done.sort((a, b) => a.row.id - b.row.id);
}

/** As many of the documents as a turn has time for; at least one. */
function affordable(documents: readonly DocumentToScore[]): DocumentToScore[] {
  let characters = 0;
  return shuffled(documents)
    .filter((document, i) => {
      characters += scoredText(document.text).length;
      return i === 0 || characters <= MOST_CHARACTERS;
    })
    .sort((a, b) => a.id - b.id);
}

/**
 * Predict, then learn: what waits is scored on the live version before any round may train on it (a training view takes only
 * rows with `scored_at`). Where more waits than a turn scores, a random sample is scored and the rest is passed over at once: so
 * neither the figures nor learning lag behind a burst.
 */
export async function monitorTurn(input: {
  db: Database;
  scorer: Scorer;
  settings: MonitorSettings;
  champion: Champion;
  log: Log;
  signal?: AbortSignal | undefined;
  /** Time for scoring each kind; default 20 s. */
  mostMs?: number;
}): Promise<MonitorTurn> {
  const { db, scorer, settings, champion, signal } = input;
  const log = input.log.child('monitor');
  const most = settings.monitor.sample;

  const waiting = {
    feedback: await waitingIds(db, 'feedback', MOST_WAITING),
    documents: await waitingIds(db, 'documents', MOST_WAITING),
  };
  const labels = await labelsToScore(db, sample(waiting.feedback, most));
  const documents = affordable(await documentsToScore(db, sample(waiting.documents, most)));

  const mostMs = input.mostMs ?? MOST_MS;
  const within = (ms: number): How => ({ log, signal, until: performance.now() + ms });
  const predicted: Array<LabelToScore & { predicted: string }> = [];
  for (const task of settings.tasks) {
    const rows = labels.filter(row => row.task === task.name && task.labels.includes(row.label));
    const classify = (some: readonly LabelToScore[]) =>
      scorer.classify(
        champion.files,
        task.name,
        task.labels,
        some.map(row => row.text),
        { signal },
      );
    for (const { row, score } of await scoreWithin(rows, classify, within(mostMs / settings.tasks.length)))
      predicted.push({ ...row, predicted: score.label });
  }
  predicted.sort((a, b) => a.id - b.id);
  const perplexity = (some: readonly DocumentToScore[]) =>
    scorer.perplexity(
      champion.files,
      some.map(document => scoredText(document.text)),
      { signal },
    );
  const scored = await scoreWithin(documents, perplexity, within(mostMs));
  const likelihoods = scored.flatMap(({ row, score: { nll, tokens, bytes } }) =>
    Number.isFinite(nll) ? [{ id: row.id, nll, tokens, bytes }] : [],
  );

  return db.tx(async tx => {
    const state = await getState<LiveState>(tx, LIVE);
    const changes: Array<{ signal: AlarmSignal; change: 'raised' | 'cleared' }> = [];
    const live =
      state?.version === champion.n
        ? Live.restore(state, sizes(settings))
        : Live.begin(champion.n, sizes(settings), await getState<Seed>(tx, seedKey(champion.n)));
    if (state?.version !== champion.n)
      for (const alarm of await openAlarms(tx))
        if (await clear(tx, settings, alarm.signal, 'promoted'))
          changes.push({ signal: alarm.signal, change: 'cleared' });

    const kept = await storePredictions(tx, champion.n, predicted);
    const keptDocuments = await storeLikelihoods(tx, champion.n, likelihoods);
    // What was not scored (more than a turn's sample, no longer declared, unreadable) is passed over, so that it may be learned.
    await sampleOut(tx, 'feedback', champion.n, waiting.feedback);
    await sampleOut(tx, 'documents', champion.n, waiting.documents);

    const apply = async (name: AlarmSignal, change: WatchChange) => {
      if (change === null) return;
      const figures = live.figures()[name];
      if (change.kind === 'cleared') {
        if (await clear(tx, settings, name, 'recovered')) changes.push({ signal: name, change: 'cleared' });
        return;
      }
      const facts = { signal: name, detector: change.detector, value: figures.value, reference: figures.reference };
      if (!(await raiseAlarm(tx, { ...facts, version: champion.n }))) return;
      await appendEvent(tx, 'learnd.alarm.raised', { ...facts, version: `${settings.name}@${champion.n}` });
      changes.push({ signal: name, change: 'raised' });
    };
    for (const row of predicted) if (kept.has(row.id)) await apply('f1', live.label(row));
    for (const row of likelihoods) if (keptDocuments.has(row.id)) await apply('perplexity', live.document(row));

    if (state?.version !== champion.n || kept.size > 0 || keptDocuments.size > 0)
      await putState(tx, LIVE, live.snapshot());
    return {
      figures: live.figures(),
      scored: { feedback: kept.size, documents: keptDocuments.size },
      sampledOut: {
        feedback: waiting.feedback.length - kept.size,
        documents: waiting.documents.length - keptDocuments.size,
      },
      changes,
    };
  });
}

async function clear(tx: Queryable, settings: MonitorSettings, signal: AlarmSignal, why: string): Promise<boolean> {
  const row = await clearAlarm(tx, signal, why);
  if (!row) return false;
  await appendEvent(tx, 'learnd.alarm.cleared', { signal, version: `${settings.name}@${row.version}`, why });
  return true;
}
