import { prune as pruneModel } from '../../compress/prune.ts';
import { activationStatistics, loadEngineModel } from '../../model/engine/index.ts';
import { writeModelGguf } from '../../model/export.ts';
import { readLoraGguf } from '../../model/lora.ts';
import { mergeLora } from '../../model/merge.ts';
import { openModel } from '../../model/open.ts';
import { tensorflow } from '../../tensor/backend.ts';
import type { JobContext } from '../serve.ts';
import type { Jobs } from '../types.ts';
import { forget } from './loaded.ts';
import { modelResult, partsOf, typeAfterMerge } from './model-file.ts';

/** Longest piece of calibration text, tokens. */
const SEQUENCE = 256;

/** Makes the model smaller by what its parts do on public text; an adapter is worked in first. */
export async function prune(input: Jobs['prune']['input'], context: JobContext): Promise<Jobs['prune']['result']> {
  const { model, adapter } = input.files;
  forget();
  tensorflow({ threads: input.threads });
  const checkpoint = await openModel(model);
  const lora = adapter && readLoraGguf(adapter.path, checkpoint.config);
  const weights =
    lora === undefined
      ? checkpoint.weights
      : mergeLora(checkpoint.weights, { ...lora, alpha: lora.alpha * adapter!.scale });
  const source = { config: checkpoint.config, weights };
  await context.breathe();
  const engine = loadEngineModel(source);
  const sequences = input.calibration.map(text => checkpoint.tokenizer.encode(text).slice(0, SEQUENCE));
  context.progress({ stage: 'calibration', done: 0, total: sequences.length });
  await context.breathe();
  const statistics = activationStatistics(engine, sequences);
  engine.dispose();
  context.progress({ stage: 'calibration', done: sequences.length, total: sequences.length });
  await context.breathe();
  const pruned = pruneModel(
    source,
    {
      ffn: statistics.ffn.map(scores => Float32Array.from(scores)),
      blockInfluence: Float32Array.from(statistics.influence),
    },
    {
      ...(input.ffn === undefined ? {} : { ffn: input.ffn }),
      ...(input.dropLayers === undefined ? {} : { dropLayers: input.dropLayers }),
    },
  );
  const parts = partsOf(checkpoint, { config: pruned.config, weights: pruned.weights });
  const written = await writeModelGguf(parts, input.out, {
    type: lora === undefined ? 'keep' : typeAfterMerge(checkpoint),
    source: checkpoint,
  });
  return { ...modelResult(written, parts), keptLayers: pruned.keptLayers };
}
