import { randomBytes } from 'node:crypto';
import { maskOf } from '../../learn/build/vocabulary.ts';
import { openModel } from '../../learn/model/open.ts';
import { noiseMultiplier } from '../../learn/privacy/accountant.ts';
import { SEED_BYTES } from '../../learn/privacy/noise.ts';
import { type AutoChoice, chooseMethod, histogramNoise, shapeOf } from '../../learn/training/auto.ts';
import type { RoundRow } from '../../store/rounds.ts';
import { getVersion } from '../../store/versions.ts';
import type { RoundPorts } from './ports.ts';
import type { Finetune } from './program.ts';
import { HISTOGRAM_CLIP, RECIPES, sampleRate, VARIANTS } from './recipes.ts';
import { mechanismOf, type Noise, type TextTraining } from './work.ts';

export const seeded = (noise: Noise): Noise => ({ ...noise, seed: randomBytes(SEED_BYTES).toString('hex') });

/**
 * A training on documents: its method, and the noise of its parts, which together keep the action's epsilon. From public constants
 * alone: the expected number of users, epsilon, delta and the model's shape.
 */
export async function documentTraining(
  ports: RoundPorts,
  round: RoundRow,
  { method, epsilon, minutes, gaps, augment }: Finetune,
  delta: number,
): Promise<{ training: TextTraining; why: string }> {
  const choice = method === 'auto' ? await choose(ports, round, epsilon, delta) : asked(method);
  const kind = choice.method as TextTraining['kind'];
  const varied = augment === true && kind !== 'bias';
  const why = augment === true ? `${choice.why}; ${varied ? VARIED : NO_VARIANTS}` : choice.why;
  if (gaps !== undefined) await checkGaps(ports, round);
  const about = { kind, minutes, ...(gaps && { gaps }), ...(varied && { augment: VARIANTS.text }) };
  if (epsilon === 'none') return { training: about, why };
  const expectedUnits = ports.settings.privacy.expected_users;
  const parts: { histogram?: Noise; noise?: Noise } = {};
  if (choice.histogramShare > 0)
    parts.histogram = seeded({
      noiseMultiplier: histogramNoise(epsilon, delta, choice.histogramShare),
      ...{ sampleRate: 1, steps: 1, clip: HISTOGRAM_CLIP, expectedUnits, delta },
    });
  if (kind !== 'bias') {
    const recipe = RECIPES[kind];
    const { steps, clip } = recipe;
    const rate = sampleRate(recipe, expectedUnits);
    const prior = parts.histogram ? [mechanismOf(parts.histogram)] : [];
    parts.noise = seeded({
      noiseMultiplier: noiseMultiplier({ epsilon, delta, sampleRate: rate, steps, prior }),
      ...{ sampleRate: rate, steps, clip, expectedUnits, delta },
    });
  }
  return { training: { ...about, ...parts }, why };
}

const VARIED = `up to ${VARIANTS.text} variants of each document count with it as one in the steps`;
const NO_VARIANTS = 'without variants: a histogram counts the words as they were written';

/** @throws LearndError('invalid') before anything is reserved, when the vocabulary has no token for a gap */
async function checkGaps(ports: RoundPorts, round: RoundRow): Promise<void> {
  const { manifest } = await getVersion(ports.db, round.parent!);
  maskOf((await openModel(await ports.artifacts.path(manifest.model))).tokenizer);
}

async function choose(
  ports: RoundPorts,
  round: RoundRow,
  epsilon: Finetune['epsilon'],
  delta: number,
): Promise<AutoChoice> {
  const { manifest } = await getVersion(ports.db, round.parent!);
  const { config } = await openModel(await ports.artifacts.path(manifest.model));
  return chooseMethod({
    data: 'documents',
    ...{ units: ports.settings.privacy.expected_users, epsilon, delta },
    shape: shapeOf(config, manifest.model.parameters),
  });
}

/** What a rule names is done: `bias` is the histogram alone, the others have none. */
const asked = (method: Exclude<Finetune['method'], 'auto'>): AutoChoice => ({
  method,
  histogramShare: method === 'bias' ? 1 : 0,
  why: `method: ${method}, as the rule asks`,
  candidates: [],
});
