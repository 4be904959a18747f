import { LearndError } from '../../../base/errors.ts';
import { writeSafetensorsFile } from '../../model/formats/safetensors-write.ts';
import type { HostTensor } from '../../model/types.ts';
import { PUBLIC_SENTENCES } from '../../training/public-text.ts';
import type { JobContext } from '../serve.ts';
import type { Jobs } from '../types.ts';
import { named } from './classify.ts';
import { extract } from './features.ts';
import {
  type HeadExample,
  probabilities,
  standardised,
  standardOf,
  startFrom,
  trainHead,
  whitening,
} from './head-training.ts';
import { planOf } from './text-training.ts';

/** Sentences about a label that needs no data: its name in everyday questions. */
const TEMPLATES = [
  '{}?',
  'I have a question about {}.',
  'This is about {}.',
  'Please help me with {}.',
  'How does {} work?',
  'There is a problem with my {}.',
] as const;

const readable = (label: string): string => label.replace(/[_\s]+/g, ' ').trim();

/** Directions in which public sentences hardly vary are stretched at most so far (1 / sqrt). */
const RIDGE = 1;

/** Sentences whose probabilities in memory the stored head must give again. */
const CHECKED = 12;

/**
 * Trains the classifier of a task: features of the truncated model (the file that will serve), standardised on public sentences,
 * rows started from the labels' names, then the private steps. Writes `weight`, `bias`, `mean` and `scale` as safetensors.
 */
export async function trainHeadJob(
  input: Jobs['train-head']['input'],
  context: JobContext,
): Promise<Jobs['train-head']['result']> {
  const started = performance.now();
  const { labels, examples, noise } = input;
  const publicFeatures = await extract(input.features, PUBLIC_SENTENCES, context, 'public features');
  const standard = standardOf(publicFeatures);
  const x = (feature: Float32Array): Float32Array => standardised(feature, standard);
  const sentences = labels.flatMap(label => TEMPLATES.map(template => template.replace('{}', () => readable(label))));
  const white = whitening(publicFeatures.map(x), RIDGE);
  const y = (feature: Float32Array): Float32Array => white.apply(x(feature));
  const templates = (await extract(input.features, sentences, context, 'label features')).map(y);
  const start = startFrom(labels.map((_, i) => templates.slice(i * TEMPLATES.length, (i + 1) * TEMPLATES.length)));
  const features = (
    await extract(
      input.features,
      examples.map(e => e.text),
      context,
    )
  ).map(y);
  const place = new Map(labels.map((label, i) => [label, i]));
  const byUnit = new Map<string, HeadExample[]>();
  for (const [i, { unit, label }] of examples.entries()) {
    const example = { x: features[i]!, label: place.get(label)! };
    const unitExamples = byUnit.get(unit);
    if (unitExamples) unitExamples.push(example);
    else byUnit.set(unit, [example]);
  }
  const units = [...byUnit.values()];
  const until = started + input.maxSeconds * 1000;
  const trained = await trainHead(start, units, planOf(noise, units.length), {
    after: async step => {
      context.progress({ stage: 'steps', done: step, total: noise.steps });
      await context.breathe();
    },
    enough: () => performance.now() > until,
  });
  const weight = white.fold(trained.weight);
  const change = Math.sqrt(trained.weight.reduce((sum, value, i) => sum + (value - start.weight[i]!) ** 2, 0));
  if (!(change > 0)) throw new LearndError('internal', 'the head is the same after training as before');
  const hidden = standard.mean.length;
  const tensors = new Map<string, HostTensor>([
    ['weight', { shape: [labels.length, hidden], data: weight }],
    ['bias', { shape: [labels.length], data: trained.bias }],
    ['mean', { shape: [hidden], data: standard.mean }],
    ['scale', { shape: [hidden], data: standard.scale }],
  ]);
  const file = await writeSafetensorsFile(input.out, tensors, 'f32');
  return {
    file,
    steps: trained.steps,
    outOfTime: trained.steps < noise.steps,
    seconds: (performance.now() - started) / 1000,
    change,
    check: publicFeatures
      .slice(0, CHECKED)
      .map(feature => named(labels, probabilities(weight, trained.bias, x(feature)))),
  };
}
