import { LearndError } from '../../../base/errors.ts';
import { loadEngineAdapter, loadEngineModel } from '../../model/engine/index.ts';
import { writeLoraGguf } from '../../model/export.ts';
import { readLoraGguf, stackAdapters } from '../../model/lora.ts';
import { mergeLora } from '../../model/merge.ts';
import { openModel } from '../../model/open.ts';
import type { LoraAdapter } from '../../model/types.ts';
import { tensorflow } from '../../tensor/backend.ts';
import type { JobContext } from '../serve.ts';
import type { Jobs } from '../types.ts';
import { forget } from './loaded.ts';
import { checkFigure, runTraining } from './text-training.ts';

/**
 * Trains a new adapter on all blocks, over the weights with the version's own adapter worked in. What is written is both,
 * stacked, for the same weights file: nothing is rounded and the weights file is shared with the parent.
 */
export async function trainLora(
  input: Jobs['train-lora']['input'],
  context: JobContext,
): Promise<Jobs['train-lora']['result']> {
  forget();
  tensorflow({ threads: input.threads });
  const checkpoint = await openModel(input.files.model);
  const old = input.files.adapter && readAt(input.files.adapter, checkpoint.config);
  const model = loadEngineModel({
    config: checkpoint.config,
    weights: old === undefined ? checkpoint.weights : mergeLora(checkpoint.weights, old),
  });
  const result = await runTraining(
    { model, method: { kind: 'lora', rank: input.rank } },
    input,
    checkpoint.tokenizer,
    context,
  );
  const fresh = result.adapter!;
  // B starts at zero: its norm is how far the product has moved.
  const change = Math.sqrt(
    [...fresh.pairs.values()].reduce((sum, { b }) => sum + b.data.reduce((square, x) => square + x * x, 0), 0),
  );
  if (!(change > 0)) throw new LearndError('internal', 'the adapter does nothing after training');
  const adapter = loadEngineAdapter(model, fresh);
  const check = await checkFigure({ checkpoint, model, adapter }, context);
  adapter.dispose();
  model.dispose();
  const whole = old === undefined ? fresh : stackAdapters(old, fresh);
  const written = await writeLoraGguf(whole, checkpoint, input.out);
  return {
    file: { path: written.path, sha256: written.sha256, bytes: written.bytes },
    rank: whole.rank,
    steps: result.steps,
    outOfTime: result.outOfTime,
    seconds: result.seconds,
    tokensPerSecond: result.tokensPerSecond,
    change,
    check,
  };
}

function readAt(adapter: { path: string; scale: number }, config: Parameters<typeof readLoraGguf>[1]): LoraAdapter {
  const lora = readLoraGguf(adapter.path, config);
  return { ...lora, alpha: lora.alpha * adapter.scale };
}
