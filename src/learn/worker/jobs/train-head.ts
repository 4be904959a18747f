import { availableParallelism } from 'node:os';
import { LearndError } from '../../../base/errors.ts';
import { headScores, readHead, saveHead } from '../../model/head.ts';
import { SecureStream } from '../../privacy/index.ts';
import { type HeadUnit, labelSentences, trainHead as train } from '../../training/head.ts';
import { PUBLIC_SENTENCES } from '../../training/public-text.ts';
import { requireAll } from '../../training/self-check.ts';
import { headFindings } from '../../training/self-check-head.ts';
import { withVariants } from '../../training/variants.ts';
import type { JobContext } from '../serve.ts';
import type { Jobs } from '../types.ts';
import { named } from './classify.ts';
import { extract } from './features.ts';
import { planOf } from './text-training.ts';

/** Sentences whose probabilities in memory the stored head must give again. */
const CHECKED = 12;

/** Two contexts of one thread: two threads in one context collapse (algorithms 11). At the lowest priority, serving goes first. */
const CONTEXTS = Math.min(2, availableParallelism());

/** The features are the long part: once they are there, stopping after one step would waste them and the privacy of that step. */
const LEAST_MS = 60_000;

type Input = Jobs['train-head']['input'];

/** Features of the truncated model (the file that will serve), then the private steps; progress tells steps only. */
export async function trainHead(input: Input, context: JobContext): Promise<Jobs['train-head']['result']> {
  const started = performance.now();
  const { labels, noise, task, layer, base: features } = input;
  const before = input.before && readHead(input.before.file, { task, labels: input.before.labels, features, layer });
  const publicFeatures = await extract(input.features, PUBLIC_SENTENCES, context, {
    stage: 'public features',
    contexts: CONTEXTS,
  });
  if (publicFeatures.some(feature => !feature.every(Number.isFinite)))
    throw new LearndError('corrupt', 'the feature model gives numbers that are not finite: its weights are not whole', {
      field: 'features',
      hint: 'Nothing was trained or spent. Import the base again.',
      retriable: false,
      data: { released: false },
    });
  const sentences = labels.map(labelSentences);
  const flat = await extract(input.features, sentences.flat(), context, {
    stage: 'label features',
    contexts: CONTEXTS,
  });
  let at = 0;
  const labelFeatures = sentences.map(of => {
    at += of.length;
    return flat.slice(at - of.length, at);
  });
  const units = await unitsOf(input, context);
  const until = Math.max(started + input.maxSeconds * 1000, performance.now() + LEAST_MS);
  const { head, steps, change } = await train({
    task,
    labels,
    ...(before && { before }),
    units,
    publicFeatures,
    labelFeatures,
    privacy: planOf(noise, units.length),
    ...(input.constraints && { constraints: input.constraints }),
    layer,
    featuresSha256: features,
    onStep: async (step, total) => {
      context.progress({ stage: 'steps', done: step, total });
      await context.breathe();
      return performance.now() <= until;
    },
  });
  requireAll(headFindings({ head, publicFeatures, labelFeatures, change, stream: new SecureStream() }));
  return {
    file: await saveHead(input.out, head),
    steps,
    outOfTime: steps < noise.steps,
    seconds: (performance.now() - started) / 1000,
    change,
    check: publicFeatures.slice(0, CHECKED).map(feature => named(labels, Float32Array.from(headScores(head, feature)))),
  };
}

/** One unit a user, in the order they come: the plan draws them by index. */
async function unitsOf(input: Input, context: JobContext): Promise<HeadUnit[]> {
  const { features, labels } = input;
  const examples =
    input.augment === undefined
      ? input.examples
      : await withVariants(input.examples, { seed: `augment:${input.noise.seed}`, count: input.augment }, labels);
  const found = await extract(
    features,
    examples.map(example => example.text),
    context,
    { contexts: CONTEXTS },
  );
  const place = new Map(labels.map((label, i) => [label, i]));
  const byUnit = new Map<string, HeadUnit['examples'][number][]>();
  for (const [i, { unit, label, region }] of examples.entries()) {
    const example = { feature: found[i]!, label: place.get(label)!, ...(region !== undefined && { region }) };
    const before = byUnit.get(unit);
    if (before) before.push(example);
    else byUnit.set(unit, [example]);
  }
  return [...byUnit].map(([user, of]) => ({ user, examples: of }));
}
