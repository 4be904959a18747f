export { type Accountant, epsilon, type Mechanism, type NoiseRequest, noiseMultiplier } from './accountant.ts';
export { poissonSample, SEED_BYTES, SecureStream, streamFor } from './noise.ts';
export { type Clip, type DpPlan, makePlan, type PlanRequest, type PlanState, requireOneRelease } from './plan.ts';
