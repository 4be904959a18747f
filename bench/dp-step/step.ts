import { expectedShapes, loadEngineModel } from '../../src/learn/model/engine/model.ts';
import { disposeGradients, type Gradients } from '../../src/learn/model/engine/sinks.ts';
import { clippedUnitGradients, type Example, meanGradient, parameterOf } from '../../src/learn/model/engine/units.ts';
import type { ModelConfig } from '../../src/learn/model/types.ts';
import { makePlan, SecureStream } from '../../src/learn/privacy/index.ts';
import { tensorflow } from '../../src/learn/tensor/backend.ts';
import { createOptimizer } from '../../src/learn/training/optimizer.ts';
import { prepareTraining } from '../../src/learn/training/trainables.ts';
import type { StepModel, StepSetting } from './setting.ts';

/** A model of the bench's shapes with random weights: what a step costs does not depend on them. */
export function randomModel(model: StepModel, stream: SecureStream) {
  const config: ModelConfig = {
    ...{ vocabSize: model.vocabSize, hidden: model.hidden, layers: model.layers },
    ...{ heads: model.heads, kvHeads: model.kvHeads, headDim: model.headDim, tied: model.tied },
    ...{ ffn: Array.from({ length: model.layers }, () => model.ffn), contextLength: 2048, ropeTheta: 10_000 },
    ...{ rmsEps: 1e-5, attentionBias: false },
  };
  const shapes = expectedShapes(config);
  return loadEngineModel({
    config,
    weights: {
      names: () => [...shapes.keys()],
      shape: name => shapes.get(name)!,
      read: name => {
        const shape = shapes.get(name)!;
        const size = shape.reduce((a, b) => a * b, 1);
        return { shape, data: shape.length === 1 ? new Float32Array(size).fill(1) : stream.normal(size, 0.02) };
      },
    },
  });
}

/** Prepares the model and returns one training step: forward, backward, optimizer, and with `dp` clipping and noise. */
export function contestant({ model: shape, what, how, rank, threads }: StepSetting): () => Promise<void> {
  const tf = tensorflow({ threads });
  const stream = new SecureStream(new Uint8Array(32).fill(1));
  const model = randomModel(shape, stream);
  const training = prepareTraining(model, what === 'full' ? { kind: 'full' } : { kind: 'lora', rank }, stream);
  const optimizer = createOptimizer({ kind: 'adam', learningRate: 1e-4 });
  const examples: Example[] = Array.from({ length: shape.batch }, () => ({
    tokens: Array.from({ length: shape.length }, () => stream.below(shape.vocabSize)),
  }));
  const options = { maxTokens: shape.batch * shape.length };
  const plan = makePlan({
    ...{
      units: shape.batch,
      expectedUnits: shape.batch,
      steps: 1000,
      delta: 1e-5,
      noiseMultiplier: 1,
      unit: 'example',
    },
    clip: { kind: 'flat', bound: 1 },
  });
  const sizes = [...training.trainable.keys].map(key => {
    const { size } = parameterOf(model, training.trainable.adapter, key);
    return [key, size] as const;
  });
  let step = 0;
  const gradientsOf = async (): Promise<Gradients> => {
    if (how === 'plain') return (await meanGradient(model, examples, training.trainable, options)).gradients;
    const units = plan.sample(step).map(i => [examples[i]!]);
    plan.expectNoise(step, sizes);
    const { gradients } = await clippedUnitGradients(
      model,
      units,
      training.trainable,
      norm => plan.clipFactor(norm) / plan.divisor,
      options,
    );
    for (const [key] of sizes) {
      const mean = gradients.get(key)!;
      gradients.set(
        key,
        tf.tidy(() => {
          const noise = tf.reshape(plan.meanNoise(step, mean.size, key), mean.shape);
          return tf.keep(tf.add(mean, noise));
        }),
      );
      mean.dispose();
    }
    step += 1;
    return gradients;
  };
  return async () => {
    const gradients = await gradientsOf();
    optimizer.step(training.parameters, gradients);
    disposeGradients(gradients);
  };
}
