import { LearndError } from '../../../base/errors.ts';
import { toHost } from '../../model/engine/index.ts';
import { EditedWeights, writeModelGguf } from '../../model/export.ts';
import type { HostTensor } from '../../model/types.ts';
import type { JobContext } from '../serve.ts';
import type { Jobs } from '../types.ts';
import { forget, load } from './loaded.ts';
import { partsOf } from './model-file.ts';
import { checkFigure, runTraining } from './text-training.ts';

/**
 * Trains the RMSNorm scales of the last blocks (and the final norm) and writes full weights: everything else is copied as it is
 * stored. An adapter stays as it is and takes part in the forward pass.
 */
export async function trainNorms(
  input: Jobs['train-norms']['input'],
  context: JobContext,
): Promise<Jobs['train-norms']['result']> {
  forget();
  const loaded = await load(input.files, input.threads);
  const { model, adapter, checkpoint } = loaded;
  const before = new Map<string, HostTensor>(
    model.parameterNames().flatMap(name => (/norm\.weight$/.test(name) ? [[name, toHost(model.parameter(name))]] : [])),
  );
  const layers = Math.min(input.layers, checkpoint.config.layers);
  const result = await runTraining(
    { model, method: { kind: 'norms', layers }, ...(adapter ? { adapter } : {}) },
    input,
    checkpoint.tokenizer,
    context,
  );
  const changed = result.weights!;
  const change = distance(before, changed);
  if (!(change > 0)) throw new LearndError('internal', 'the norm scales are the same after training as before');
  const check = await checkFigure(loaded, context);
  const parts = partsOf(checkpoint, { weights: EditedWeights.overlay(checkpoint.weights, changed) });
  const written = await writeModelGguf(parts, input.out, { type: 'keep', source: checkpoint });
  model.dispose();
  adapter?.dispose();
  return {
    file: { path: written.path, sha256: written.sha256, bytes: written.bytes },
    steps: result.steps,
    outOfTime: result.outOfTime,
    seconds: result.seconds,
    tokensPerSecond: result.tokensPerSecond,
    change,
    check,
  };
}

function distance(before: ReadonlyMap<string, HostTensor>, after: ReadonlyMap<string, HostTensor>): number {
  let square = 0;
  for (const [name, { data }] of after) {
    const old = before.get(name)!.data;
    for (let i = 0; i < data.length; i++) square += (data[i]! - old[i]!) ** 2;
  }
  return Math.sqrt(square);
}
