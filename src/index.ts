/** For programs that embed learnd: settings in, a daemon out; and the learning library, which knows neither database nor network. */
export { LearndError } from './base/errors.ts';
export { createLog } from './base/log.ts';
export { loadSettings, type Settings } from './base/settings.ts';
export { type Daemon, type DaemonOptions, startDaemon } from './daemon.ts';
export { openModel } from './learn/model/open.ts';
export { epsilon, makePlan, noiseMultiplier } from './learn/privacy/index.ts';
export { train } from './learn/training/index.ts';
