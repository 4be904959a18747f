/** The training engine: a Llama decoder on native TensorFlow with explicit forward and backward passes. */
export type { EngineAdapter, EngineModel } from './model.ts';
export { expectedShapes, LINEAR_KINDS, layerName, loadEngineAdapter, loadEngineModel, toHost } from './model.ts';
export type { ScoreOptions, SequenceScore } from './score.ts';
export { hiddenStates, scoreTokens } from './score.ts';
export type { Example } from './units.ts';
