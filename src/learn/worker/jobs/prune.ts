import { pruneByText } from '../../compress/by-text.ts';
import { loadEngineModel } from '../../model/engine/index.ts';
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
  const { files, calibration, threads, out, ...plan } = input;
  const { model, adapter } = files;
  forget();
  tensorflow({ threads });
  const checkpoint = await openModel(model);
  const lora = adapter && readLoraGguf(adapter.path, checkpoint.config);
  const weights =
    lora === undefined
      ? checkpoint.weights
      : mergeLora(checkpoint.weights, { ...lora, alpha: lora.alpha * adapter!.scale });
  const source = { config: checkpoint.config, weights };
  await context.breathe();
  const sequences = calibration.map(text => checkpoint.tokenizer.encode(text).slice(0, SEQUENCE));
  const pruned = pruneByText(source, () => loadEngineModel(source), sequences, plan, {
    onProgress: (stage, done, total) => context.progress({ stage, done, total }),
  });
  await context.breathe();
  const parts = partsOf(checkpoint, { config: pruned.config, weights: pruned.weights });
  const written = await writeModelGguf(parts, out, {
    type: lora === undefined ? 'keep' : typeAfterMerge(checkpoint),
    source: checkpoint,
  });
  return { ...modelResult(written, parts), keptLayers: pruned.keptLayers };
}
