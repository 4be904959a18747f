import { groupByLength, padBatch, scoredRows } from '../../model/engine/batch.ts';
import { forwardTokens, runBlocks } from '../../model/engine/forward.ts';
import { headLoss } from '../../model/engine/head.ts';
import type { EngineModel } from '../../model/engine/model.ts';
import type { Example, PassOptions, Trainable } from '../../model/engine/units.ts';

/**
 * Summed log-probability of each example's scored tokens, at the weights as they are, under the same adapter, vocabulary bias and
 * cache as the training pass.
 * @returns nats, in the order given; 0 for an example with nothing scored.
 */
export async function sequenceLogProbabilities(
  model: EngineModel,
  examples: readonly Example[],
  { adapter, from }: Pick<Trainable, 'adapter' | 'from'>,
  options: Pick<PassOptions, 'maxTokens' | 'cache' | 'tokenBias' | 'onMicrobatch'>,
): Promise<Float64Array> {
  const sums = new Float64Array(examples.length);
  for (const group of groupByLength(
    examples.map(e => e.tokens.length),
    options.maxTokens,
  )) {
    const members = group.map(i => examples[i]!);
    const batch = padBatch(
      members.map(m => m.tokens),
      model.config,
    );
    const scored = scoredRows(
      batch,
      () => 1,
      members.map(m => m.mask),
    );
    if (scored.rows.length === 0) continue;
    const input = from > 0 ? options.cache?.input(model, batch, members, { from, adapter }) : undefined;
    const hidden =
      input === undefined
        ? forwardTokens(model, batch, { adapter })
        : runBlocks(model, input, batch, { from, adapter });
    const { losses } = headLoss(model, hidden, scored, { tokenBias: options.tokenBias });
    input?.dispose();
    hidden.dispose();
    scored.sequence.forEach((b, i) => {
      sums[group[b]!]! -= losses[i]!;
    });
    await options.onMicrobatch?.();
  }
  return sums;
}
