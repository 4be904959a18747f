export { type ClassScore, Confusion, DecayedF1, type F1, type Labelled, WindowedF1, weightedF1 } from './f1.ts';
export { PercentileWindow, percentile } from './percentile.ts';
export { type Perplexity, PerplexityTotal, perplexity, type TextLoss } from './perplexity.ts';
