import { writeFeatureModel } from '../../model/export.ts';
import { openModel } from '../../model/open.ts';
import type { Jobs } from '../types.ts';

export async function featureModel(input: Jobs['feature-model']['input']): Promise<Jobs['feature-model']['result']> {
  const checkpoint = await openModel(input.model);
  const layers = Math.min(input.layers, checkpoint.config.layers);
  return { ...(await writeFeatureModel(checkpoint, layers, input.out)), layers };
}
