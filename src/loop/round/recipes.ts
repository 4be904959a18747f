/**
 * Settings of the private trainings: constants chosen on public data sets (docs/decisions), the same for every deployment, so that
 * nothing of a deployment's private data decides how it is trained.
 */
import type { Clip } from '../../learn/privacy/plan.ts';
import { HEAD_CLIP, HEAD_STEPS } from '../../learn/training/head.ts';

export interface Recipe {
  readonly steps: number;
  /** Units wished for in a step; the sampling rate follows from it and the expected number of users. */
  readonly unitsPerStep: number;
  readonly clip: Clip;
}

/** The clip of the histogram: every unit with a token to count has a norm above 1. */
export const HISTOGRAM_CLIP: Clip = { kind: 'flat', bound: 1 };

/** The clip of private calibration: vectors are made with a norm of at most 1 (compress/charged.ts). */
export const CALIBRATION_CLIP: Clip = { kind: 'flat', bound: 1 };

export const RECIPES: Readonly<Record<'head' | 'norms' | 'lora' | 'full', Recipe>> = {
  head: { steps: HEAD_STEPS, unitsPerStep: Number.POSITIVE_INFINITY, clip: HEAD_CLIP },
  // Every unit normalised to 1, 400-600 units a step, 5-12 steps.
  norms: { steps: 8, unitsPerStep: 500, clip: { kind: 'auto-s' } },
  lora: { steps: 20, unitsPerStep: 500, clip: { kind: 'auto-s' } },
  full: { steps: 20, unitsPerStep: 1000, clip: { kind: 'auto-s' } },
};

/**
 * Variants of each example, where the rule asks for augmentation: EDA's number for sets of a few thousand (1901.11196) for a head, whose
 * examples cost the forward pass of a few blocks; fewer for the language model, for which each costs what the example itself does.
 */
export const VARIANTS = { head: 4, text: 2 } as const;

/** From public constants alone. */
export const sampleRate = (recipe: Recipe, expectedUnits: number): number =>
  Math.min(1, recipe.unitsPerStep / expectedUnits);
