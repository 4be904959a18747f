import { weightedF1 } from '../../src/learn/metrics/f1.ts';
import { headScores } from '../../src/learn/model/head.ts';
import { trainHead } from '../../src/learn/training/head.ts';
import { type FeatureSet, LAYER } from './features.ts';
import type { Task } from './split.ts';

export interface Budget {
  /** null: without noise. */
  readonly epsilon: number | null;
  readonly delta: number;
}

/** Weighted F1 of a head as a round trains it, on the test rows of the task's intents. */
export async function ours(set: FeatureSet, task: Task, { epsilon, delta }: Budget): Promise<number> {
  const { head } = await trainHead({
    task: 'intent',
    labels: task.labels,
    units: task.users,
    publicFeatures: set.public,
    labelFeatures: task.kept.map(label => set.names[label]!),
    privacy: epsilon === null ? null : { epsilon, delta, expectedUnits: task.users.length },
    layer: LAYER,
    featuresSha256: '',
  });
  const predicted = task.test.features.map(feature => {
    const scores = headScores(head, feature);
    return task.labels[scores.indexOf(Math.max(...scores))]!;
  });
  const truth = task.test.labels.map(label => task.labels[label]!);
  return weightedF1(truth, predicted).weighted!;
}
