import type { ItemFacts } from '../../training/constraints/index.ts';
import { denseBias } from '../../training/index.ts';
import { type FeedbackUnits, feedbackUnits, type Item } from '../../training/objectives/index.ts';
import { trainToEnd } from '../../training/trainer.ts';
import { rowVariants } from '../../training/variants.ts';
import type { JobContext } from '../serve.ts';
import type { FeedbackInput, FeedbackTrained } from '../types.ts';
import { forget } from './loaded.ts';
import { beforeTraining } from './self-check.ts';
import { anchorsFor, termsOf } from './terms.ts';
import { planOf } from './text-training.ts';
import { loadForTraining, norms, writeFiles } from './train-documents.ts';

/**
 * Trains on what people said and writes what changed, as for documents. Progress tells steps and speed only: losses are not covered
 * by the noise.
 */
export async function trainFeedback(input: FeedbackInput, context: JobContext): Promise<FeedbackTrained> {
  forget();
  const started = performance.now();
  const anchors = await anchorsFor(input.against, input.threads);
  const wanted = { ...input, steps: { method: input.method, noise: input.noise } };
  const loaded = await loadForTraining(wanted);
  const { model, checkpoint } = loaded;
  const method = fitting(input.method, checkpoint.config.layers);
  const before = method.kind === 'norms' ? norms(model) : undefined;
  const feedback = feedbackUnits(await rowsOf(input, context), input.objective, {
    checkpoint,
    sequence: input.sequence,
  });
  const { units, objective } = feedback;
  const terms = termsOf(input.against, loaded, anchors, factsOf(feedback));
  const bias = input.files.logitBias?.map(([token, value]): [number, number] => [token, value]);
  const verify = await beforeTraining(loaded, context, bias && denseBias(bias, checkpoint.config.vocabSize));
  try {
    const steps = await trainToEnd(
      {
        ...{ model, method, units, beside: terms, maxSeconds: input.maxSeconds, signal: context.signal },
        ...(objective && { objective }),
        ...(loaded.adapter && method.kind !== 'lora' && { adapter: loaded.adapter }),
        ...(bias && { tokenBias: denseBias(bias, checkpoint.config.vocabSize) }),
        plan: planOf(input.noise, units.length),
        seed: Buffer.from(input.noise.seed, 'hex'),
        ...(input.against.ema !== undefined && { ema: input.against.ema }),
        ...(input.checkpoint && { checkpoint: input.checkpoint, resume: 'same' as const }),
      },
      ({ step, steps: total, tokensPerSecond }) =>
        context.progress({
          ...{ stage: 'steps', done: step, total },
          facts: { tokensPerSecond: Math.round(tokensPerSecond) },
        }),
    );
    const files = await writeFiles(wanted, loaded, { bias, release: undefined, steps }, context, { before, verify });
    return {
      ...files,
      steps: steps.steps,
      notes: files.model?.notes ?? [],
      outOfTime: steps.outOfTime,
      seconds: (performance.now() - started) / 1000,
      tokensPerSecond: steps.tokensPerSecond,
    };
  } finally {
    terms.dispose();
    loaded.adapter?.dispose();
    model.dispose();
  }
}

/** With variants where they are asked for. */
async function rowsOf(
  { rows, augment, objective, noise }: FeedbackInput,
  context: JobContext,
): Promise<FeedbackInput['rows']> {
  if (augment === undefined) return rows;
  return await rowVariants(
    rows,
    { seed: `augment:${noise.seed}`, count: augment },
    { ...(objective.kind === 'classify' && { labels: objective.labels }), breathe: () => context.breathe() },
  );
}

/** A small model may have fewer blocks than are asked for. */
const fitting = (method: FeedbackInput['method'], layers: number): FeedbackInput['method'] =>
  'layers' in method && method.layers !== undefined ? { ...method, layers: Math.min(method.layers, layers) } : method;

/** Label and region of each label choice. */
function factsOf({ labelOf, regionOf }: FeedbackUnits): ReadonlyMap<Item, ItemFacts> {
  return new Map(
    [...labelOf].map(([item, label]) => {
      const region = regionOf.get(item);
      return [item, { label, ...(region !== undefined && { region }) }];
    }),
  );
}
