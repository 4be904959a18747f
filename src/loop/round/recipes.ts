/**
 * Settings of the private trainings: constants chosen on public data sets (docs/decisions), the same for every deployment, so that
 * nothing of a deployment's private data decides how it is trained.
 */
import type { Clip } from '../../learn/privacy/plan.ts';

export interface Recipe {
  readonly steps: number;
  /** Units wished for in a step; the sampling rate follows from it and the expected number of users. */
  readonly unitsPerStep: number;
  readonly clip: Clip;
}

export const RECIPES: Readonly<Record<'head' | 'norms' | 'lora', Recipe>> = {
  // Few full-batch steps, every unit normalised to 1.
  head: { steps: 16, unitsPerStep: Number.POSITIVE_INFINITY, clip: { kind: 'auto-s' } },
  // Every unit normalised to 1, 400-600 units a step, 5-12 steps.
  norms: { steps: 8, unitsPerStep: 500, clip: { kind: 'auto-s' } },
  lora: { steps: 20, unitsPerStep: 250, clip: { kind: 'auto-s' } },
};

/** From public constants alone. */
export const sampleRate = (recipe: Recipe, expectedUnits: number): number =>
  Math.min(1, recipe.unitsPerStep / expectedUnits);
