/** Champion and candidate on held-out users: what the gate compares and what a version's card says. */
import type { Subject } from '../../learn/model/version.ts';
import type { CallOptions } from '../../learn/worker/process.ts';
import type { Queryable } from '../../store/database.ts';
import { holdoutDocuments, holdoutLabels, type TaskLabels } from '../../store/round-rows.ts';
import { type Holdout, type Measurement, measure } from './measure.ts';

export { type Holdout, type Items, type Measurement, measure } from './measure.ts';

/** The round's frozen held-out rows; what was erased since is gone from them. */
export async function holdoutOf(db: Queryable, round: number, tasks: readonly TaskLabels[]): Promise<Holdout> {
  return {
    documents: await holdoutDocuments(db, round),
    tasks: await Promise.all(tasks.map(async task => ({ ...task, items: await holdoutLabels(db, round, task.name) }))),
  };
}

/** Both versions on the same rows: the holdout grows with every event, so yesterday's figures of the champion cannot be compared. */
export async function evaluate(input: {
  db: Queryable;
  round: number;
  tasks: readonly TaskLabels[];
  worker: Parameters<typeof measure>[0];
  champion: Subject;
  candidate: Subject | undefined;
  call: CallOptions;
}): Promise<{ champion: Measurement; candidate: Measurement | undefined }> {
  const holdout = await holdoutOf(input.db, input.round, input.tasks);
  const champion = await measure(input.worker, input.champion, holdout, { call: input.call });
  const candidate =
    input.candidate &&
    (await measure(input.worker, input.candidate, holdout, {
      call: input.call,
      known: { subject: input.champion, measurement: champion },
    }));
  return { champion, candidate };
}
