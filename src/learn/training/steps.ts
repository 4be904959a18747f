import { invalid, LearndError } from '../../base/errors.ts';
import { disposeGradients, type Gradients } from '../model/engine/sinks.ts';
import {
  clippedUnitGradients,
  type Example,
  meanGradient,
  type PassOptions,
  parameterOf,
  scoredTokens,
} from '../model/engine/units.ts';
import type { DpPlan, SecureStream } from '../privacy/index.ts';
import { tensorflow } from '../tensor/backend.ts';
import type { Drawn } from './beside.ts';
import { sequenceLogProbabilities } from './objectives/log-probabilities.ts';
import type { TrainRequest } from './request.ts';
import { lengthOf, releaseFinding, requireAll } from './self-check.ts';
import type { Training } from './trainables.ts';

/** What one step measured and the gradient it hands the optimizer, which the caller disposes. */
export interface Step {
  gradients: Gradients;
  loss: number | undefined;
  drawn: number;
  tokens: number;
}

/** What an objective must know of the weights a training starts from. Before anything is restored or stepped. */
export async function prepareObjective(
  { model, objective }: TrainRequest,
  { trainable }: Training,
  options: PassOptions,
): Promise<void> {
  await objective?.prepare(examples => sequenceLogProbabilities(model, examples, trainable, options));
}

/** The pass options with the objective's weights at the weights as they are; unchanged for the ordinary loss. */
async function weighed(
  { model, objective, beside }: TrainRequest,
  { trainable }: Training,
  units: readonly (readonly Example[])[],
  options: PassOptions,
): Promise<{ options: PassOptions; loss: number | undefined; outcomes: Drawn['outcomes'] }> {
  if (objective === undefined) return { options, loss: undefined, outcomes: [] };
  const { tokenWeight, loss, correct } = await objective.weigh(
    units,
    examples => sequenceLogProbabilities(model, examples, trainable, options),
    beside?.itemFactor,
  );
  const outcomes = units.map(unit =>
    objective.itemsOf(unit).flatMap(item => (correct.has(item) ? [{ item, correct: correct.get(item)! }] : [])),
  );
  return { options: { ...options, tokenWeight }, loss, outcomes };
}

/** After the noise and the division: what public data adds, or what is charged for through the plan's own noise. */
async function addBeside(
  { model, plan, beside }: TrainRequest,
  { trainable, parameters }: Training,
  gradients: Gradients,
  drawn: Drawn,
  { cache: _, ...options }: PassOptions,
): Promise<void> {
  await beside?.step(gradients, { model, trainable, parameters, options, plan }, drawn);
}

/** A minibatch without noise. */
export async function publicStep(
  request: TrainRequest,
  training: Training,
  minibatches: Generator<Example[], never>,
  step: number,
  options: PassOptions,
): Promise<Step> {
  const drawn = minibatches.next().value;
  const examples = (await request.rewrite?.(drawn, step)) ?? drawn;
  const { options: own, loss, outcomes } = await weighed(request, training, [examples], options);
  const { gradients, nll, tokens } = await meanGradient(request.model, examples, training.trainable, own);
  if (!Number.isFinite(loss ?? nll)) {
    disposeGradients(gradients);
    throw new LearndError('internal', 'the training loss is no longer a finite number', {
      hint: 'Lower the learning rate.',
    });
  }
  await addBeside(request, training, gradients, { step, units: [examples], outcomes }, options);
  return {
    gradients,
    loss: loss ?? nll / tokens,
    drawn: examples.length,
    tokens: examples.reduce((sum, e) => sum + e.tokens.length, 0),
  };
}

/** Clipped sum over the units drawn divided by the plan's public constant, noise once; an empty draw still takes its noise step. */
export async function privateStep(
  request: TrainRequest,
  training: Training,
  plan: DpPlan,
  step: number,
  options: PassOptions,
): Promise<Step> {
  const tf = tensorflow();
  const drawn = plan.sample(step).map(i => request.units[i]!);
  const { keys, adapter } = training.trainable;
  plan.expectNoise(
    step,
    Array.from(keys, key => [key, parameterOf(request.model, adapter, key).size] as const),
  );
  const { options: own, loss, outcomes } = await weighed(request, training, drawn, options);
  const { gradients, norms, nll, tokens } = await clippedUnitGradients(
    request.model,
    drawn,
    training.trainable,
    (norm, unit) => (plan.clipFactor(norm) / plan.divisor) * (request.beside?.unitFactor?.(outcomes[unit] ?? []) ?? 1),
    own,
  );
  const looks = looksAtNoise(gradients, plan, step);
  let squares = 0;
  // In the order announced: the noise that could not be made ahead is made while what could is added.
  for (const key of keys) {
    const mean = gradients.get(key)!;
    gradients.set(
      key,
      tf.tidy(() => {
        const noise = tf.reshape(plan.meanNoise(step, mean.size, key), mean.shape);
        if (looks) squares += tf.sum(tf.square(noise)).dataSync()[0]!;
        return tf.keep(tf.add(mean, noise));
      }),
    );
    mean.dispose();
  }
  if (looks) checkRelease(gradients, plan, Math.sqrt(squares), drawn.length);
  await addBeside(request, training, gradients, { step, units: drawn, outcomes }, options);
  plan.observe(step, norms);
  const seen = drawn.reduce((sum, unit) => sum + unit.reduce((of, e) => of + e.tokens.length, 0), 0);
  const mean = tokens === 0 ? undefined : nll / tokens;
  return {
    gradients,
    loss: loss ?? mean,
    drawn: drawn.length,
    tokens: seen,
  };
}

/** Numbers whose length is looked at in every step; of more (30 million: 40 ms) in the first and the last. */
const QUICK = 4e6;

function looksAtNoise(gradients: Gradients, plan: DpPlan, step: number): boolean {
  const numbers = [...gradients.values()].reduce((sum, gradient) => sum + gradient.size, 0);
  return numbers <= QUICK || step === 0 || step === plan.steps - 1;
}

/** @throws LearndError('corrupt') when the noise, or the sum with it, is not as long as was accounted for */
function checkRelease(gradients: Gradients, plan: DpPlan, noiseOfMean: number, drawn: number): void {
  const { norm, numbers } = lengthOf(gradients.values());
  const { divisor } = plan;
  requireAll([releaseFinding({ norm: norm * divisor, noise: noiseOfMean * divisor, numbers, drawn }, plan)]);
}

/**
 * Endless minibatches of `batch` examples, or of so many of an objective's items, over shuffled passes. What scores nothing is
 * left out.
 */
export function* minibatchesOf(
  { units, objective, batch }: Pick<TrainRequest, 'units' | 'objective' | 'batch'>,
  stream: SecureStream,
): Generator<Example[], never> {
  const groups = objective?.items.map(item => item.sequences) ?? units.flatMap(unit => unit.map(example => [example]));
  const useful = groups.filter(group => group.some(example => scoredTokens(example) > 0));
  if (useful.length === 0) throw invalid('units', 'there is nothing to train on: no example has a token to predict');
  let order: (readonly Example[])[] = [];
  for (;;) {
    const next: (readonly Example[])[] = [];
    while (next.length < Math.min(batch!, useful.length)) {
      if (order.length === 0) order = shuffled(useful, stream);
      next.push(order.pop()!);
    }
    yield next.flat();
  }
}

function shuffled<T>(items: readonly T[], stream: SecureStream): T[] {
  const result = [...items];
  for (let i = result.length - 1; i > 0; i--) {
    const j = stream.below(i + 1);
    [result[i], result[j]] = [result[j]!, result[i]!];
  }
  return result;
}
