/** Training on the engine: examples, methods, optimizers, the step loop. */
export { instructExample, packedExamples, unitExamples } from './examples.ts';
export type { OptimizerSettings, Schedule } from './optimizer.ts';
export type { LinearKind, Method } from './trainables.ts';
export type { TrainProgress, TrainRequest, TrainResult } from './trainer.ts';
export { defaultOptimizer, train, trainToEnd } from './trainer.ts';
