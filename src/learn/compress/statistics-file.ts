import { LearndError } from '../../base/errors.ts';
import type { WrittenFile } from '../model/formats/atomic-file.ts';
import { SafetensorsFile } from '../model/formats/safetensors-read.ts';
import { writeSafetensorsFile } from '../model/formats/safetensors-write.ts';
import type { HostTensor } from '../model/types.ts';
import type { CalibrationStatistics } from './statistics.ts';

/** Statistics between their release and the pruning that reads them; float32. */

const KEYS = ['mean', 'meanAbs', 'variance'] as const;

export function writeStatistics(path: string, statistics: CalibrationStatistics): Promise<WrittenFile> {
  const tensors = new Map<string, HostTensor>();
  const put = (name: string, values: Float64Array): void => {
    tensors.set(name, { shape: [values.length], data: Float32Array.from(values) });
  };
  for (const key of KEYS) for (const [layer, values] of statistics[key].entries()) put(`${key}.${layer}`, values);
  put('influence', statistics.influence);
  return writeSafetensorsFile(path, tensors, 'f32');
}

/** @throws LearndError('corrupt') when they are of another model */
export function readStatistics(path: string, ffn: readonly number[]): CalibrationStatistics {
  const file = new SafetensorsFile(path);
  const take = (name: string, length: number): Float64Array => {
    const values = file.float(name);
    if (values.length === length) return Float64Array.from(values);
    throw new LearndError('corrupt', `calibration ${path}: ${name} has ${values.length} values, not ${length}`);
  };
  const rows = (key: string): Float64Array[] => ffn.map((width, layer) => take(`${key}.${layer}`, width));
  return {
    ...{ mean: rows('mean'), meanAbs: rows('meanAbs'), variance: rows('variance') },
    ...{ influence: take('influence', ffn.length), tokens: 0 },
  };
}
