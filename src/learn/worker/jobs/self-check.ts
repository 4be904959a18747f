import { LearndError } from '../../../base/errors.ts';
import type { EngineAdapter } from '../../model/engine/index.ts';
import { loraA, loraB } from '../../model/engine/sinks.ts';
import type { Trainable } from '../../model/engine/units.ts';
import { SecureStream } from '../../privacy/index.ts';
import { PUBLIC_SENTENCES } from '../../training/public-text.ts';
import { changeFindings, fingerprints, gradientFindings, probeFinding, requireAll } from '../../training/self-check.ts';
import { type Method, prepareTraining } from '../../training/trainables.ts';
import type { JobContext } from '../serve.ts';
import type { Loaded } from './loaded.ts';
import { checkFigure } from './text-training.ts';

/** Tokens of the public example whose gradient is checked. */
const EXAMPLE_TOKENS = 32;

export interface AfterTraining {
  /** undefined: nothing but a vocabulary bias. */
  readonly method: Method | undefined;
  /** The adapter that was trained (`lora`). */
  readonly fresh?: EngineAdapter | undefined;
  readonly tokenBias?: Float32Array | undefined;
  /** Loss on the public probe, of what is in memory now. */
  readonly check: number;
}

/** @throws LearndError('corrupt') naming the checks that failed */
export type Verify = (after: AfterTraining) => Promise<void>;

/** What a training on text is held against afterwards: the weights' fingerprints and the public probe, before the first step. */
export async function beforeTraining(loaded: Loaded, context: JobContext, tokenBias?: Float32Array): Promise<Verify> {
  const { model, adapter, checkpoint } = loaded;
  const weights = fingerprints(model, adapter);
  const probe = await checkFigure(loaded, context, tokenBias);
  if (!Number.isFinite(probe)) throw notFinite(loaded);
  return async ({ method, fresh, tokenBias: bias, check }) => {
    const stream = new SecureStream();
    const trainable = method && trainableOf(loaded, method, fresh, stream);
    const trained = fresh === undefined ? (trainable?.keys ?? new Set<string>()) : new Set<string>();
    const findings = changeFindings(weights, fingerprints(model, adapter), trained);
    if (fresh !== undefined) findings.push(stillAtStart(fresh));
    findings.push(probeFinding(probe, check, model.config.vocabSize));
    requireAll(findings);
    if (trainable === undefined) return;
    await context.breathe();
    const first = stream.below(PUBLIC_SENTENCES.length - 2);
    const text = PUBLIC_SENTENCES.slice(first, first + 3).join(' ');
    const tokens = checkpoint.tokenizer.encode(text).slice(0, EXAMPLE_TOKENS);
    requireAll(
      await gradientFindings({ model, trainable, example: { tokens }, stream, ...(bias && { tokenBias: bias }) }),
    );
  };
}

/** Before the first step, so nothing has been released. */
function notFinite({ model, adapter }: Loaded): LearndError {
  const tensors = [
    ...model.parameterNames().map(name => [name, model.parameter(name)] as const),
    ...[...(adapter?.pairs ?? [])].flatMap(([name, { a, b }]) => [
      [loraA(name), a] as const,
      [loraB(name), b] as const,
    ]),
  ];
  const bad = tensors.filter(([, tensor]) => !tensor.dataSync().every(Number.isFinite)).map(([name]) => name);
  return new LearndError(
    'corrupt',
    bad.length > 0
      ? `the model cannot be trained: weights of ${bad.slice(0, 3).join(', ')} are not finite numbers`
      : 'the model cannot be trained: its loss on public sentences is not a finite number',
    {
      field: 'model',
      hint: 'Nothing was trained or spent. Roll back to a version whose weights are whole, or import the base again.',
      retriable: false,
      data: { released: false },
    },
  );
}

/** As the training had it, over the weights as they are now. */
function trainableOf(
  { model, adapter }: Loaded,
  method: Method,
  fresh: EngineAdapter | undefined,
  stream: SecureStream,
): Trainable {
  if (fresh === undefined) return prepareTraining(model, method, stream, adapter).trainable;
  const names = [...fresh.pairs.keys()];
  const sizes = [...fresh.pairs.values()].map(({ a, b }) => a.size + b.size);
  return {
    keys: new Set(names.flatMap(name => [loraA(name), loraB(name)])),
    size: sizes.reduce((sum, size) => sum + size, 0),
    adapter: fresh,
    from: 0,
    vocabulary: false,
    small: true,
  };
}

/** B begins at zero in every pair: one that is still there was never trained. */
function stillAtStart(fresh: EngineAdapter) {
  const still = [...fresh.pairs].filter(([, { b }]) => b.dataSync().every(x => x === 0)).map(([name]) => name);
  return {
    check: 'trained weights have changed',
    ok: still.length === 0,
    detail: still.length === 0 ? `all ${fresh.pairs.size} pairs` : `zero is B of ${still.slice(0, 3).join(', ')}`,
  };
}
