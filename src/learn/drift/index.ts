export { Alarm, type AlarmOptions, type AlarmStatus } from './alarm.ts';
export type { Detector, DetectorState, Settings, Verdict } from './detector.ts';
export { createDetector, DETECTOR_NAMES } from './registry.ts';
