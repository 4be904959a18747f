/** Detectors by name. */
import { invalid } from '../../base/errors.ts';
import { Adwin } from './adwin.ts';
import { Ddm } from './ddm.ts';
import type { Detector, Settings } from './detector.ts';
import { HddmA } from './hddm-a.ts';
import { PageHinkley } from './page-hinkley.ts';

const DETECTORS = new Map<string, new (settings?: Settings) => Detector>([
  ['adwin', Adwin],
  ['page-hinkley', PageHinkley],
  ['ddm', Ddm],
  ['hddm-a', HddmA],
]);

export const DETECTOR_NAMES: readonly string[] = [...DETECTORS.keys()];

/** @throws LearndError invalid: an unknown detector, an unknown setting, or one out of its range */
export function createDetector(name: string, settings: Settings = {}): Detector {
  const Kind = DETECTORS.get(name);
  if (Kind === undefined)
    throw invalid('detector', `is ${JSON.stringify(name)}; known are ${DETECTOR_NAMES.join(', ')}`);
  return new Kind(settings);
}
