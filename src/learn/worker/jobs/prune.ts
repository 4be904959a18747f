import { pruneByText } from '../../compress/by-text.ts';
import { readStatistics } from '../../compress/statistics-file.ts';
import { loadEngineModel } from '../../model/engine/index.ts';
import { writeModelGguf } from '../../model/export.ts';
import { readLoraGguf } from '../../model/lora.ts';
import { mergeLora } from '../../model/merge.ts';
import { openModel } from '../../model/open.ts';
import { tensorflow } from '../../tensor/backend.ts';
import type { JobContext } from '../serve.ts';
import type { Jobs, ModelFiles } from '../types.ts';
import { forget } from './loaded.ts';
import { modelResult, partsOf, typeAfterMerge } from './model-file.ts';

/** Longest piece of calibration text, tokens. */
export const SEQUENCE = 256;

/** The weights that are pruned: with the adapter worked in. */
export async function mergedSource({ model, adapter }: Pick<ModelFiles, 'model' | 'adapter'>) {
  const checkpoint = await openModel(model);
  const lora = adapter && readLoraGguf(adapter.path, checkpoint.config);
  const weights =
    lora === undefined
      ? checkpoint.weights
      : mergeLora(checkpoint.weights, { ...lora, alpha: lora.alpha * adapter!.scale });
  return { checkpoint, lora, source: { config: checkpoint.config, weights } };
}

/** Makes the model smaller by what its parts do on public text, or by statistics released before; an adapter is worked in first. */
export async function prune(input: Jobs['prune']['input'], context: JobContext): Promise<Jobs['prune']['result']> {
  const { files, calibration, statistics, threads, out, ...plan } = input;
  forget();
  tensorflow({ threads });
  const { checkpoint, lora, source } = await mergedSource(files);
  await context.breathe();
  const sequences = calibration.map(text => checkpoint.tokenizer.encode(text).slice(0, SEQUENCE));
  const pruned = pruneByText(source, () => loadEngineModel(source), sequences, plan, {
    onProgress: (stage, done, total) => context.progress({ stage, done, total }),
    ...(statistics !== undefined && { statistics: readStatistics(statistics, source.config.ffn) }),
  });
  await context.breathe();
  const parts = partsOf(checkpoint, { config: pruned.config, weights: pruned.weights });
  const written = await writeModelGguf(parts, out, {
    type: lora === undefined ? 'keep' : typeAfterMerge(checkpoint),
    source: checkpoint,
  });
  return { ...modelResult(written, parts), keptLayers: pruned.keptLayers };
}
