import { writeFeatureModel } from '../../model/export.ts';
import { openModel } from '../../model/open.ts';
import type { Jobs } from '../types.ts';

export async function featureModel(input: Jobs['feature-model']['input']): Promise<Jobs['feature-model']['result']> {
  const checkpoint = await openModel(input.model);
  const deep = checkpoint.config.layers;
  // Mean pooling is best in the first third of a network (algorithms 11): a small model is cut there.
  const layers = input.layers < deep ? input.layers : Math.max(1, Math.round(deep / 3));
  return { ...(await writeFeatureModel(checkpoint, layers, input.out, 'q8_0')), layers };
}
