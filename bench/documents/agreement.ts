/**
 * What `auto` must know of a method (src/learn/training/auto.ts), measured: how far units' gradients agree, and what the method reaches
 * without noise. `npm run bench -- documents agreement [--units 400] [--methods norms,lora,full] [--steps 20]`. Scored on the lines
 * set aside for tuning, which are in no other figure.
 */
import { parseArgs } from 'node:util';
import { cacheFolder } from '../../src/base/settings.ts';
import { resolveBase } from '../../src/learn/model/base.ts';
import { type EngineModel, loadEngineAdapter, loadEngineModel, toHost } from '../../src/learn/model/engine/index.ts';
import { clippedUnitGradients, type Example, HiddenCache, type Trainable } from '../../src/learn/model/engine/units.ts';
import { openModel } from '../../src/learn/model/open.ts';
import { makePlan, SecureStream } from '../../src/learn/privacy/index.ts';
import { tensorflow } from '../../src/learn/tensor/backend.ts';
import { histogramNoise, PRIVATE_LAYERS, PRIVATE_RANK } from '../../src/learn/training/auto.ts';
import { unitExamples } from '../../src/learn/training/examples.ts';
import { PUBLIC_SENTENCES } from '../../src/learn/training/public-text.ts';
import { type Method, prepareTraining } from '../../src/learn/training/trainables.ts';
import { trainToEnd } from '../../src/learn/training/trainer.ts';
import { countVocabulary, denseBias, releaseCounts } from '../../src/learn/training/vocabulary-bias.ts';
import { HISTOGRAM_CLIP } from '../../src/loop/round/recipes.ts';
import type { BenchOptions, Row } from '../kit.ts';
import { heldOutScorer } from './score.ts';
import { inquiries } from './texts.ts';

const METHODS: Readonly<Record<string, Method>> = {
  norms: { kind: 'norms', layers: PRIVATE_LAYERS },
  lora: { kind: 'lora', rank: PRIVATE_RANK, layers: PRIVATE_LAYERS },
  full: { kind: 'full' },
};
const SEQUENCE = 96;
const BATCH = 64;

export async function agreement({ args, quick, log }: BenchOptions): Promise<Row[]> {
  const { values } = parseArgs({
    args: args.slice(1),
    options: {
      units: { type: 'string', default: quick ? '50' : '400' },
      methods: { type: 'string', default: 'norms,lora,full' },
      steps: { type: 'string', default: quick ? '2' : '20' },
    },
  });
  tensorflow({ threads: Number(process.env.TF_NUM_INTRAOP_THREADS ?? 2) });
  const base = await resolveBase('smollm2-135m', { cacheDir: cacheFolder() });
  const checkpoint = await openModel(base.path);
  const { config, tokenizer } = checkpoint;
  const model = loadEngineModel(checkpoint);
  const texts = inquiries();
  const n = Number(values.units);
  const units = texts.train.slice(0, n).map(text => unitExamples([tokenizer.encode(text)], SEQUENCE, 1));
  const held: Example[] = texts.tuning
    .slice(0, quick ? 50 : 300)
    .map(text => ({ tokens: tokenizer.encode(text) }))
    .filter(({ tokens }) => tokens.length > 1);
  const from = config.layers - PRIVATE_LAYERS;
  const cacheOf = (examples: readonly Example[]) => new HiddenCache(2 ** 31, examples, config.hidden, 1024);
  const cache = cacheOf(units.flat());
  const score = heldOutScorer(model, held, { cache: cacheOf(held), from });
  const plan = makePlan({
    ...{ units: n, expectedUnits: n, delta: 1e-5, unit: 'user', seed: new Uint8Array(32).fill(1), steps: 1 },
    ...{ sampleRate: 1, noiseMultiplier: histogramNoise(8, 1e-5, 1), clip: HISTOGRAM_CLIP },
  });
  const publicText = PUBLIC_SENTENCES.map(text => tokenizer.encode(text));
  const { bias } = releaseCounts(
    await countVocabulary({ model, units, plan, publicText, lower: { cache, from } }),
    plan,
  );
  const dense = denseBias(bias, config.vocabSize);
  const before = await score(dense);
  log(`${n} units, histogram alone: perplexity ${before.all.toFixed(2)} (${(await score()).all.toFixed(2)} before)`);
  const rows: Row[] = [];
  for (const name of values.methods.split(',')) {
    const method = METHODS[name]!;
    const stream = new SecureStream(new Uint8Array(32).fill(2));
    const training = prepareTraining(model, method, stream);
    const agree = async (when: string, trainable: Trainable): Promise<void> => {
      const length = await agreementOf(model, units, trainable, dense, cache);
      log(`${name}: ${trainable.size} numbers, gradients agree on ${length.toFixed(4)} of their length ${when}`);
      rows.push({
        ...{ what: `${name}: agreement of units' gradients ${when}`, value: length, unit: 'of 1' },
        detail: `${trainable.size} numbers, ${n} units`,
      });
    };
    await agree('at the start', training.trainable);
    training.dispose();
    if (method.kind === 'full') continue;
    const start = new Map(
      [...training.trainable.keys]
        .filter(key => method.kind === 'norms' && key)
        .map(key => [key, toHost(model.parameter(key))]),
    );
    const { adapter } = await trainToEnd(
      {
        model,
        units,
        method,
        steps: Number(values.steps),
        batch: BATCH,
        tokenBias: dense,
        cache,
        seed: new Uint8Array(32).fill(3),
      },
      ({ step, steps, loss }) => log(`${name}: step ${step} of ${steps}, loss ${loss?.toFixed(3)}`),
    );
    const engineAdapter = adapter && loadEngineAdapter(model, adapter);
    const after = await score(dense, engineAdapter);
    await agree(`after ${values.steps} steps`, {
      ...training.trainable,
      ...(engineAdapter && { adapter: engineAdapter }),
    });
    engineAdapter?.dispose();
    for (const [key, { data, shape }] of start)
      model.setParameter(key, tensorflow().keep(tensorflow().tensor(data, [...shape])));
    const nats = Math.log(before.all / after.all);
    log(
      `${name}: perplexity ${before.all.toFixed(2)} -> ${after.all.toFixed(2)} without noise, ${nats.toFixed(3)} nats`,
    );
    rows.push({
      ...{ what: `${name}: reach beyond the histogram, without noise`, value: nats, unit: 'nats' },
      detail: `${values.steps} steps of ${BATCH} units, perplexity ${before.all.toFixed(1)} -> ${after.all.toFixed(1)}`,
    });
  }
  model.dispose();
  return rows;
}

/** Length of the mean of the units' gradients, each of length 1, were there endless units: from the mean cosine between two. */
async function agreementOf(
  model: EngineModel,
  units: readonly (readonly Example[])[],
  trainable: Trainable,
  bias: Float32Array,
  cache: HiddenCache,
): Promise<number> {
  const tf = tensorflow();
  const tokenBias = tf.tensor1d(bias);
  const { gradients } = await clippedUnitGradients(model, units, trainable, norm => 1 / norm, {
    ...{ maxTokens: 1024, tokenBias },
    ...(trainable.from > 0 && { cache }),
  });
  let square = 0;
  for (const gradient of gradients.values()) {
    square += tf.tidy(() => tf.sum(tf.square(gradient)).dataSync()[0]!);
    gradient.dispose();
  }
  tokenBias.dispose();
  const n = units.length;
  return Math.sqrt(Math.max(0, (square - n) / (n * (n - 1))));
}
