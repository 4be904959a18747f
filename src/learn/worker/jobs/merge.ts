import { writeModelGguf } from '../../model/export.ts';
import { readLoraGguf } from '../../model/lora.ts';
import { mergeLora } from '../../model/merge.ts';
import { openModel } from '../../model/open.ts';
import type { Jobs } from '../types.ts';
import { modelResult, partsOf, typeAfterMerge } from './model-file.ts';

/** The version's adapter worked into its weights, at the scale it is served with. */
export async function merge(input: Jobs['merge']['input']): Promise<Jobs['merge']['result']> {
  const { model, adapter } = input.files;
  const checkpoint = await openModel(model);
  if (adapter === undefined) {
    const parts = partsOf(checkpoint);
    return modelResult(await writeModelGguf(parts, input.out, { type: 'keep', source: checkpoint }), parts);
  }
  const lora = readLoraGguf(adapter.path, checkpoint.config);
  const parts = partsOf(checkpoint, {
    weights: mergeLora(checkpoint.weights, { ...lora, alpha: lora.alpha * adapter.scale }),
  });
  const written = await writeModelGguf(parts, input.out, { type: typeAfterMerge(checkpoint), source: checkpoint });
  return modelResult(written, parts);
}
