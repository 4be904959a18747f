import { asLearndError, LearndError } from '../../../base/errors.ts';
import { neededOf, type PruneByTextPlan } from '../../compress/by-text.ts';
import { chargedStatistics } from '../../compress/charged.ts';
import { writeStatistics } from '../../compress/statistics-file.ts';
import { loadEngineModel } from '../../model/engine/index.ts';
import type { ModelConfig, Tokenizer } from '../../model/types.ts';
import { tensorflow } from '../../tensor/backend.ts';
import { PUBLIC_SENTENCES } from '../../training/public-text.ts';
import type { JobContext } from '../serve.ts';
import type { Jobs, UnitText } from '../types.ts';
import { forget } from './loaded.ts';
import { mergedSource, SEQUENCE } from './prune.ts';
import { planOf } from './text-training.ts';

/** Documents of one unit that are looked at: what a unit costs in time. */
const PER_UNIT = 4;

/** Releases what pruning this model needs to know of private text. Nothing else of that text leaves the worker. */
export async function calibrate(
  input: Jobs['calibrate']['input'],
  context: JobContext,
): Promise<Jobs['calibrate']['result']> {
  const { files, documents, noise, threads, out, ...plan } = input;
  const started = performance.now();
  forget();
  tensorflow({ threads });
  const { checkpoint, source } = await mergedSource(files);
  const units = sequencesByUnit(documents, checkpoint.tokenizer);
  const needed = neededBefore(source.config, plan);
  await context.breathe();
  const model = loadEngineModel(source);
  try {
    const released = await chargedStatistics({
      ...{ model, units, ...needed, plan: planOf(noise, units.length) },
      publicText: PUBLIC_SENTENCES.map(text => checkpoint.tokenizer.encode(text)),
      onProgress: async (done, total) => {
        context.signal.throwIfAborted();
        context.progress({ stage: 'calibration', done, total });
        await context.breathe();
      },
    });
    const file = await writeStatistics(out, released);
    return { file, units: released.units, kept: released.kept, seconds: (performance.now() - started) / 1000 };
  } finally {
    model.dispose();
  }
}

/** What cannot be pruned is refused before anything is released. */
function neededBefore(config: ModelConfig, plan: PruneByTextPlan): ReturnType<typeof neededOf> {
  try {
    return neededOf(config, plan);
  } catch (thrown) {
    const { code, message, field, hint } = asLearndError(thrown);
    throw new LearndError(code, message, {
      ...(field !== undefined && { field }),
      ...(hint !== undefined && { hint }),
      ...{ cause: thrown, retriable: false, data: { released: false } },
    });
  }
}

/** The first documents of each unit, cut to the longest sequence; units in the order they come. */
export function sequencesByUnit(documents: readonly UnitText[], tokenizer: Tokenizer): number[][][] {
  const byUnit = new Map<string, number[][]>();
  for (const { unit, text } of documents) {
    const of = byUnit.get(unit) ?? [];
    byUnit.set(unit, of);
    if (of.length < PER_UNIT) of.push(tokenizer.encode(text).slice(0, SEQUENCE));
  }
  return [...byUnit.values()];
}
