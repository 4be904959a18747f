/** Constraints as part of a training's objective. */

export type { ItemFacts } from './counts.ts';
export { measuredValue } from './counts.ts';
export { declaredConstraint } from './declared.ts';
export { probeExample, probeProbabilities } from './forbidden.ts';
export { likeliestOf } from './likeliest.ts';
export { parsePattern } from './pattern.ts';
export type * from './spec.ts';
export { boundOf, constraintName, groupNames, isCounted, isMet, isPublic, reportOf } from './spec.ts';
export type { TermsRequest } from './terms.ts';
export { Terms } from './terms.ts';
