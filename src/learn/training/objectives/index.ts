/** Objectives over several sequences, and feedback of every kind as training units. */
export { LabelItems } from './classify.ts';
export { answerExamples, answerTokens, promptTokens } from './conversation.ts';
export type { FeedbackObjective, FeedbackRow, FeedbackUnits } from './feedback.ts';
export { feedbackUnits } from './feedback.ts';
export { sequenceLogProbabilities } from './log-probabilities.ts';
export type { DpoSettings, SimpoSettings } from './losses.ts';
export { choiceLoss, dpoLoss, ktoLoss, preferenceItem, ratingItem, simpoLoss } from './losses.ts';
export type { Item, ItemLoss, LogProbabilities, Objective } from './objective.ts';
export { objectiveOf } from './objective.ts';
export { meanItem, variantUnits } from './variants.ts';
