export {
  type BoundOptions,
  type Choice,
  clopperPearsonEpsilon,
  gaussianEpsilonBound,
  guessedEpsilon,
  largestBound,
  type MuInterval,
  muInterval,
  oneRunEpsilon,
  oneRunGaussianEpsilon,
  oneRunPValue,
} from './bounds.ts';
export { exposure, extrapolatedExposure } from './exposure.ts';
export { contributionFinding, type Finding, noiseFinding } from './finding.ts';
export { auroc, type Canary, type Curve, type Point, rocCurve, tprAtFpr } from './scores.ts';
