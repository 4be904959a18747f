import type { Example } from '../../model/engine/units.ts';
import type { Tokenizer } from '../../model/types.ts';
import { type DpPlan, makePlan } from '../../privacy/index.ts';
import { unitExamples } from '../../training/index.ts';
import { PUBLIC_SENTENCES } from '../../training/public-text.ts';
import type { JobContext } from '../serve.ts';
import type { NoiseInput, TextScore, UnitText } from '../types.ts';
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
export function unitsOf(
  { documents, sequence, perUnit }: { documents: readonly UnitText[]; sequence: number; perUnit: number },
  tokenizer: Tokenizer,
): Example[][] {
  const byUnit = new Map<string, number[][]>();
  for (const { unit, text } of documents) {
    const tokens = tokenizer.encode(text);
    const documents = byUnit.get(unit);
    if (documents) documents.push(tokens);
    else byUnit.set(unit, [tokens]);
  }
  return [...byUnit.values()].map(documents => unitExamples(documents, sequence, perUnit));
}

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
