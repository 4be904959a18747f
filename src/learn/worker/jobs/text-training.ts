import type { Example } from '../../model/engine/units.ts';
import type { Tokenizer } from '../../model/types.ts';
import { makePlan } from '../../privacy/index.ts';
import { type TrainRequest, type TrainResult, trainToEnd, unitExamples } from '../../training/index.ts';
import { PUBLIC_SENTENCES } from '../../training/public-text.ts';
import type { JobContext } from '../serve.ts';
import type { NoiseInput, TextScore, TextTrainingInput } from '../types.ts';
import type { Loaded } from './loaded.ts';
import { scoreTexts } from './perplexity.ts';

/** Public sentences on which a trained model in memory and its file are held against each other. */
export const CHECK_SENTENCES = PUBLIC_SENTENCES.slice(0, 48);

/** Nats a token. */
export const meanNll = (scores: readonly TextScore[]): number =>
  scores.reduce((sum, s) => sum + s.nll, 0) / scores.reduce((sum, s) => sum + s.tokens, 0);

export const checkFigure = async (
  loaded: Pick<Loaded, 'checkpoint' | 'model' | 'adapter'>,
  context: JobContext,
): Promise<number> => meanNll(await scoreTexts(loaded, CHECK_SENTENCES, context, { stage: 'check' }));

/** Examples by privacy unit, units in the order they come (the plan draws them by index). */
export function unitsOf(input: TextTrainingInput, tokenizer: Tokenizer): Example[][] {
  const byUnit = new Map<string, number[][]>();
  for (const { unit, text } of input.documents) {
    const tokens = tokenizer.encode(text);
    const documents = byUnit.get(unit);
    if (documents) documents.push(tokens);
    else byUnit.set(unit, [tokens]);
  }
  return [...byUnit.values()].map(documents => unitExamples(documents, input.sequence, input.perUnit));
}

export const planOf = (noise: NoiseInput, units: number) =>
  makePlan({
    units,
    expectedUnits: noise.expectedUnits,
    sampleRate: noise.sampleRate,
    steps: noise.steps,
    delta: noise.delta,
    noiseMultiplier: noise.noiseMultiplier,
    clip: noise.clip,
    unit: 'user',
    seed: Buffer.from(noise.seed, 'hex'),
  });

/** Examples of a step without noise, and how often each is seen (40 steps of 64 took SmolLM2-135M from 96 to 24: algorithms 12). */
const BATCH = 32;
const PASSES = 3;
const FEWEST_STEPS = 30;
const MOST_STEPS = 400;

/**
 * Trains privately by the plan, or without noise for a few passes. Progress tells steps and speed only: losses of private
 * training are not covered by the noise.
 */
export async function runTraining(
  request: Pick<TrainRequest, 'model' | 'method' | 'adapter'>,
  input: TextTrainingInput,
  tokenizer: Tokenizer,
  context: JobContext,
): Promise<TrainResult> {
  const units = unitsOf(input, tokenizer);
  const { noise } = input;
  const examples = units.reduce((sum, unit) => sum + unit.length, 0);
  const steps = Math.min(MOST_STEPS, Math.max(FEWEST_STEPS, Math.ceil((PASSES * examples) / BATCH)));
  return await trainToEnd(
    {
      ...request,
      units,
      ...(noise === undefined
        ? { steps, batch: BATCH, schedule: { kind: 'cosine', warmup: 5, floor: 0.1 } }
        : { plan: planOf(noise, units.length), seed: Buffer.from(noise.seed, 'hex') }),
      maxSeconds: input.maxSeconds,
      signal: context.signal,
    },
    ({ step, steps: total, tokensPerSecond }) =>
      context.progress({ stage: 'steps', done: step, total, facts: { tokensPerSecond: Math.round(tokensPerSecond) } }),
  );
}
