/** Training on the engine: examples, methods, optimizers, the step loop. */
export { instructExample, packedExamples, unitExamples } from './examples.ts';
export type { FeedbackObjective, FeedbackRow, Objective } from './objectives/index.ts';
export { feedbackUnits, objectiveOf } from './objectives/index.ts';
export type { OptimizerSettings, Schedule } from './optimizer.ts';
export type { PretrainRequest, PretrainResult, ScratchShape } from './pretrain.ts';
export { mapSource, pretrain, randomWeights, scratchConfig } from './pretrain.ts';
export type { LinearKind, Method } from './trainables.ts';
export type { TrainProgress, TrainRequest, TrainResult } from './trainer.ts';
export { defaultOptimizer, train, trainToEnd } from './trainer.ts';
export type { VocabularyBias, VocabularyBiasRequest, VocabularyRelease } from './vocabulary-bias.ts';
export { denseBias, releaseVocabulary, vocabularyBias } from './vocabulary-bias.ts';
