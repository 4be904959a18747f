import { invalid } from '../base/errors.ts';
import { neededOf, type PruneByTextPlan } from '../learn/compress/by-text.ts';
import type { ReleasedStatistics } from '../learn/compress/charged.ts';
import type { OpenedModel } from '../learn/model/open.ts';
import type { Mechanism } from '../learn/privacy/index.ts';
import { PUBLIC_SENTENCES } from '../learn/training/public-text.ts';
import { ensureNative } from './native.ts';
import { readTrainRows } from './train-data.ts';
import { deltaOf } from './train-options.ts';

/** `model prune --calibration private`: statistics of private text as one noised release. */
export interface PrivateCalibration {
  /** Private text: a line a unit, or CSV and JSONL with columns. */
  readonly file?: string;
  readonly epsilon?: number;
  readonly delta?: number;
  readonly user?: string;
  readonly text?: string;
}

/** What was spent, so that any accountant can say what it comes to: `privacy epsilon --file` reads the mechanisms. */
export interface Spent {
  readonly epsilon: number;
  readonly delta: number;
  readonly mechanisms: readonly Mechanism[];
  /** Units as the noised release counts them, and the share of their differences from public text that stood out of the noise. */
  readonly units: number;
  readonly kept: number;
}

/** @throws LearndError('invalid') naming the option: nothing is looked at before all of them are right */
export async function privateStatistics(
  checkpoint: OpenedModel,
  options: PrivateCalibration,
  plan: PruneByTextPlan,
  onProgress: (stage: string, done: number, total: number) => void,
): Promise<{ statistics: ReleasedStatistics; spent: Spent }> {
  const { file, epsilon } = options;
  if (file === undefined) throw invalid('file', '--calibration private needs the private text: --file FILE');
  if (epsilon === undefined || !(epsilon > 0))
    throw invalid(
      'epsilon',
      '--calibration private releases statistics of private text: say what it may cost, e.g. --epsilon 8',
    );
  const delta = deltaOf(options);
  const needed = neededOf(checkpoint.config, plan);
  const { sequencesByUnit } = await import('../learn/worker/jobs/calibrate.ts');
  const units = sequencesByUnit(readTrainRows(file, options), checkpoint.tokenizer);
  const { chargedStatistics } = await import('../learn/compress/charged.ts');
  const { makePlan } = await import('../learn/privacy/plan.ts');
  const { loadEngineModel } = await import('../learn/model/engine/index.ts');
  ensureNative();
  const dp = makePlan({
    ...{ units: units.length, expectedUnits: units.length, steps: 1, epsilon, delta },
    ...{ clip: { kind: 'flat', bound: 1 }, unit: 'user' },
  });
  const model = loadEngineModel(checkpoint);
  try {
    const statistics = await chargedStatistics({
      ...{ model, units, ...needed, plan: dp },
      publicText: PUBLIC_SENTENCES.map(text => checkpoint.tokenizer.encode(text)),
      onProgress: (done, total) => onProgress('calibration', done, total),
    });
    const { units: counted, kept } = statistics;
    const { mechanisms } = dp;
    return { statistics, spent: { epsilon: dp.epsilon, delta, mechanisms, units: counted, kept } };
  } finally {
    model.dispose();
  }
}
