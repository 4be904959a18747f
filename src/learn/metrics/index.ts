export { type Answered, type AnswerScores, type Mean, meanOf, normalizeAnswer, scoreAnswers } from './answers.ts';
export { type ClassScore, Confusion, DecayedF1, type F1, type Labelled, WindowedF1, weightedF1 } from './f1.ts';
export { PercentileWindow, percentile } from './percentile.ts';
export { type Perplexity, PerplexityTotal, perplexity, type TextLoss } from './perplexity.ts';
export { bestRougeL, type Rouge, type RougeOptions, rougeL, rougeWords } from './rouge.ts';
export { summarizeTimings, type Timed, type TimingSummary } from './timing.ts';
