import { invalid, LearndError } from '../../base/errors.ts';
import { disposeGradients, type Gradients } from '../model/engine/sinks.ts';
import {
  clippedUnitGradients,
  type Example,
  meanGradient,
  type PassOptions,
  scoredTokens,
} from '../model/engine/units.ts';
import type { DpPlan, SecureStream } from '../privacy/index.ts';
import { tensorflow } from '../tensor/backend.ts';
import type { Training } from './trainables.ts';
import type { TrainRequest } from './trainer.ts';

/** What one step measured and the gradient it hands the optimizer, which the caller disposes. */
export interface Step {
  gradients: Gradients;
  loss: number | undefined;
  drawn: number;
  tokens: number;
}

/** A minibatch without noise. */
export async function publicStep(
  { model }: TrainRequest,
  { trainable }: Training,
  minibatches: Generator<Example[], never>,
  options: PassOptions,
): Promise<Step> {
  const examples = minibatches.next().value;
  const { gradients, nll, tokens } = await meanGradient(model, examples, trainable, options);
  if (!Number.isFinite(nll)) {
    disposeGradients(gradients);
    throw new LearndError('internal', 'the training loss is no longer a finite number', {
      hint: 'Lower the learning rate.',
    });
  }
  return {
    gradients,
    loss: nll / tokens,
    drawn: examples.length,
    tokens: examples.reduce((sum, e) => sum + e.tokens.length, 0),
  };
}

/** Clipped sum over the units drawn, noise once, divided by the plan's public constant; an empty draw still takes its noise step. */
export async function privateStep(
  { model, units }: TrainRequest,
  { trainable }: Training,
  plan: DpPlan,
  step: number,
  options: PassOptions,
): Promise<Step> {
  const tf = tensorflow();
  const drawn = plan.sample(step).map(i => units[i]!);
  const { gradients, nll, tokens } = await clippedUnitGradients(model, drawn, trainable, plan.clipFactor, options);
  for (const [key, sum] of gradients) {
    const noise = plan.noise(step, sum.size, key);
    gradients.set(
      key,
      tf.tidy(() => tf.keep(tf.div(tf.add(sum, tf.tensor(noise, sum.shape)), plan.divisor))),
    );
    sum.dispose();
  }
  const seen = drawn.reduce((sum, unit) => sum + unit.reduce((of, e) => of + e.tokens.length, 0), 0);
  return { gradients, loss: tokens === 0 ? undefined : nll / tokens, drawn: drawn.length, tokens: seen };
}

/** Endless minibatches over shuffled passes; an example that scores nothing is left out. */
export function* minibatchesOf(
  examples: readonly Example[],
  batch: number,
  stream: SecureStream,
): Generator<Example[], never> {
  const useful = examples.filter(example => scoredTokens(example) > 0);
  if (useful.length === 0) throw invalid('units', 'there is nothing to train on: no example has a token to predict');
  let order: Example[] = [];
  for (;;) {
    const next: Example[] = [];
    while (next.length < Math.min(batch, useful.length)) {
      if (order.length === 0) order = shuffled(useful, stream);
      next.push(order.pop()!);
    }
    yield next;
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
