import { invalid } from '../../../base/errors.ts';
import type { Example } from '../../model/engine/units.ts';
import type { Checkpoint } from '../../model/types.ts';
import type { BesidePass } from '../beside.ts';
import { promptTokens } from '../objectives/conversation.ts';
import { sequenceLogProbabilities } from '../objectives/log-probabilities.ts';
import type { Probe } from './spec.ts';

/**
 * A probe as a scored sequence. With a prompt: the text as the beginning of the answer, after the prompt as it is served. Without:
 * running text, whose first token only opens it (a model may begin anywhere).
 */
export function probeExample(
  checkpoint: Pick<Checkpoint, 'chatTemplate' | 'tokenizer' | 'path'>,
  { prompt, text }: Probe,
  contextLength: number,
): Example {
  const said = checkpoint.tokenizer.encode(text);
  const before = prompt === undefined ? [] : promptTokens(checkpoint, [{ role: 'user', content: prompt }]);
  const tokens = [...before, ...said].slice(0, contextLength);
  const first = Math.max(1, before.length);
  if (tokens.length <= first)
    throw invalid('texts', `the forbidden text "${text.slice(0, 40)}" is too short to have a probability`);
  return { tokens, mask: tokens.map((_, t) => t >= first) };
}

/** Probability of each probe's text, at the weights as they are. */
export async function probeProbabilities(
  { model, trainable, options }: BesidePass,
  probes: readonly Example[],
): Promise<number[]> {
  // No cache, whose keys are the training's own examples.
  const found = await sequenceLogProbabilities(model, probes, { adapter: trainable.adapter, from: 0 }, options);
  return Array.from(found, Math.exp);
}
