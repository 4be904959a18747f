import { tensorflow } from '../../tensor/backend.ts';
import type { BesidePass } from '../../training/beside.ts';
import { likeliestOf, probeExample, probeProbabilities } from '../../training/constraints/index.ts';
import { denseBias } from '../../training/index.ts';
import { measureDivergence } from '../../training/public-terms.ts';
import type { JobContext } from '../serve.ts';
import type { Jobs } from '../types.ts';
import { forget, load } from './loaded.ts';
import { baseAnchors } from './public-anchors.ts';

/** On the files as they are served: adapter and vocabulary bias applied, quantized weights as they are stored. */
export async function measureConstraints(
  input: Jobs['measure-constraints']['input'],
  context: JobContext,
): Promise<Jobs['measure-constraints']['result']> {
  forget();
  const { files, constraints, base, threads } = input;
  const anchors = constraints.some(({ kind }) => kind === 'kl_to_base') ? await baseAnchors(base, threads) : [];
  const { model, adapter, checkpoint } = await load(files, threads);
  const { vocabSize } = checkpoint.config;
  const tokenBias =
    files.logitBias === undefined
      ? undefined
      : tensorflow().tensor1d(
          denseBias(
            files.logitBias.map(([token, value]) => [token, value]),
            vocabSize,
          ),
        );
  const pass: BesidePass = {
    model,
    trainable: { keys: new Set(), size: 0, from: 0, vocabulary: false, small: true, ...(adapter && { adapter }) },
    parameters: { keys: () => [], get: name => model.parameter(name), set: () => undefined },
    options: { maxTokens: 1024, ...(tokenBias && { tokenBias }), onMicrobatch: () => context.breathe() },
    plan: undefined,
  };
  try {
    const values: (number | null)[] = [];
    for (const constraint of constraints) {
      if (constraint.kind === 'kl_to_base') values.push(await measureDivergence(pass, anchors));
      else if (constraint.kind === 'forbidden') {
        const probes = constraint.probes.map(probe => probeExample(checkpoint, probe, checkpoint.config.contextLength));
        for (const pattern of constraint.patterns ?? []) probes.push(...(await likeliestOf(pass, checkpoint, pattern)));
        values.push(Math.max(...(await probeProbabilities(pass, probes))));
      } else values.push(null);
      context.progress({ stage: 'constraints', done: values.length, total: constraints.length });
    }
    return values;
  } finally {
    tokenBias?.dispose();
    adapter?.dispose();
    model.dispose();
  }
}
