export { FeatureExtractor, type FeatureOptions } from './features.ts';
export {
  type GenerateOptions,
  type GenerateOutcome,
  Generator,
  type GeneratorOptions,
} from './generator.ts';
export { LabelScorer } from './label-scorer.ts';
export { type LabelScore, type LabelScoreOptions, labelTrie } from './labels.ts';
export type { LogitBias } from './logit-bias.ts';
export { GgufModel, openGguf } from './runtime.ts';
export { StreamingText } from './text.ts';
