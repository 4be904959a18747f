import type { Example } from '../../model/engine/units.ts';
import type { Tokenizer } from '../../model/types.ts';
import { type DpPlan, makePlan } from '../../privacy/index.ts';
import { groupsOf, type UnitDocuments } from '../../training/examples.ts';
import { PUBLIC_SENTENCES } from '../../training/public-text.ts';
import type { JobContext } from '../serve.ts';
import type { NoiseInput, TextScore } from '../types.ts';
import type { Loaded } from './loaded.ts';
import { scoreTexts } from './perplexity.ts';

/** Public sentences on which a trained model in memory and its files are held against each other. */
export const CHECK_SENTENCES = PUBLIC_SENTENCES.slice(0, 48);

/** Nats a token. */
export const meanNll = (scores: readonly TextScore[]): number =>
  scores.reduce((sum, s) => sum + s.nll, 0) / scores.reduce((sum, s) => sum + s.tokens, 0);

export const checkFigure = async (
  loaded: Pick<Loaded, 'checkpoint' | 'model' | 'adapter'>,
  context: JobContext,
  tokenBias?: Float32Array,
): Promise<number> =>
  meanNll(await scoreTexts(loaded, CHECK_SENTENCES, context, { stage: 'check', ...(tokenBias && { tokenBias }) }));

/** Examples by privacy unit, units in the order they come (the plan draws them by index). */
export const unitsOf = (input: UnitDocuments, tokenizer: Tokenizer): Example[][] =>
  groupsOf(input, tokenizer).map(groups => groups.map(([example]) => example!));

export const planOf = (noise: NoiseInput, units: number): DpPlan =>
  makePlan({
    units,
    expectedUnits: noise.expectedUnits,
    sampleRate: noise.sampleRate,
    steps: noise.steps,
    delta: noise.delta,
    noiseMultiplier: noise.noiseMultiplier,
    clip: noise.clip,
    ...(noise.countShare !== undefined && { countShare: noise.countShare }),
    unit: 'user',
    seed: Buffer.from(noise.seed, 'hex'),
  });
