import { quantizeModel } from '../../compress/quantize.ts';
import { openModel } from '../../model/open.ts';
import type { Jobs } from '../types.ts';
import { modelResult, partsOf } from './model-file.ts';

export async function quantize(input: Jobs['quantize']['input']): Promise<Jobs['quantize']['result']> {
  const checkpoint = await openModel(input.model);
  const parts = partsOf(checkpoint);
  return modelResult(await quantizeModel(parts, input.out, { type: input.type, source: checkpoint }), parts);
}
