import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { invalid, LearndError } from '../base/errors.ts';
import { weightedF1 } from '../learn/metrics/f1.ts';
import { writeFeatureModel } from '../learn/model/export.ts';
import { textChunk, writeAtomically } from '../learn/model/formats/atomic-file.ts';
import { headScores, saveHead } from '../learn/model/head.ts';
import { openModel } from '../learn/model/open.ts';
import type { Head } from '../learn/model/types.ts';
import { epsilon } from '../learn/privacy/index.ts';
import { checkVocabulary } from '../learn/training/preflight.ts';
import { destroySeal, partSeed, seal } from '../learn/training/seal.ts';
import { withVariants } from '../learn/training/variants.ts';
import { readTrainRows, type TrainRow } from './train-data.ts';
import { type Begun, peakRssMb, type Trained, type TrainJob } from './train-job.ts';
import { publicLabels } from './train-labels.ts';
import { deltaOf, epsilonOf, variantsOf } from './train-options.ts';
import { duration, interrupted, interrupts } from './train-progress.ts';

/** Blocks kept for features: mean pooling is best in the first third of a network (algorithms 11). */
const LAYERS = 10;

/** Of each example under --augment (EDA, 1901.11196, for a few thousand). */
const VARIANTS = 4;

/**
 * A classifier outside the daemon. Writes into the folder: `features.gguf` (the first blocks of the model, for llama.cpp),
 * `head.safetensors` and `head.json` (task, labels, layer, pooling, sha256 of the model), and with --holdout `predictions.jsonl`, which
 * `learnd eval f1` reads. The features are made again when an interrupted training goes on; the noise is the same.
 */
export async function trainHead(job: TrainJob): Promise<Trained> {
  const { options } = job;
  const started = performance.now();
  const given = readTrainRows(options.file, options);
  const labels = publicLabels(
    options,
    given.map(row => row.label!),
  );
  const count = variantsOf(options, VARIANTS);
  const seed = Buffer.from(partSeed(job.seed, 'augment')).toString('hex');
  const rows = count === undefined ? given : await withVariants(given, { seed, count }, labels);
  const holdout =
    options.holdout === undefined
      ? undefined
      : readTrainRows(options.holdout, { text: options.text, label: options.label });
  const units = new Set(rows.map(row => row.unit)).size;
  const target = epsilonOf(options);
  if (target !== null && deltaOf(options) >= 1 / units)
    process.stderr.write(
      `warning: delta ${deltaOf(options)} is not below 1 / ${units} units: with it, the data of one unit may be released outright\n`,
    );
  if (options.batch !== undefined)
    throw invalid('batch', 'a head is trained on every unit in every step: leave --batch out');
  const checkpoint = await openModel(options.model);
  checkVocabulary(checkpoint);
  if (job.begun === undefined) {
    const request: Begun = { options, data: job.data, model: job.model, noise: {} };
    await seal(job.folder, { seed: job.seed, request });
  }
  const stop = interrupts('stopping here; Ctrl-C once more ends at once');
  try {
    const layer = Math.min(LAYERS, Math.max(1, Math.round(checkpoint.config.layers / 3)));
    const features = await writeFeatureModel(checkpoint, layer, join(options.out, 'features.gguf'), 'q8_0');
    const { openGguf } = await import('../learn/llama/index.ts');
    const model = await openGguf(features.path);
    const contexts = Math.min(2, availableParallelism());
    const extractor = await model.createFeatureExtractor({ threads: 1, contexts });
    try {
      const extract = counted(texts => extractor.features(texts, stop.signal));
      const tokens = rows.reduce((sum, row) => sum + checkpoint.tokenizer.encode(row.text).length, 0);
      return await learn(job, { rows, labels, holdout, layer, extract, tokens, signal: stop.signal, started });
    } finally {
      await extractor.dispose();
      await model.dispose();
    }
  } catch (thrown) {
    throw stop.signal.aborted ? interrupted(options.out, new Error('no step is lost', { cause: thrown })) : thrown;
  } finally {
    stop.end();
  }
}

type Extractor = (texts: readonly string[], what: string) => Promise<Float32Array[]>;

/** Progress of the long part: a line about every two seconds. */
function counted(features: (texts: readonly string[]) => Promise<Float32Array[]>): Extractor {
  return async (texts, what) => {
    const found: Float32Array[] = [];
    const started = performance.now();
    let said = started;
    for (let at = 0; at < texts.length; at += 32) {
      found.push(...(await features(texts.slice(at, at + 32))));
      const now = performance.now();
      if (now - said < 2000) continue;
      said = now;
      const left = ((now - started) / 1000 / found.length) * (texts.length - found.length);
      process.stderr.write(`${what}: ${found.length} of ${texts.length}  ${duration(left)} left\n`);
    }
    return found;
  };
}

interface Learning {
  readonly rows: readonly TrainRow[];
  readonly labels: readonly string[];
  readonly holdout: readonly TrainRow[] | undefined;
  readonly layer: number;
  readonly extract: Extractor;
  /** In all rows. */
  readonly tokens: number;
  readonly signal: AbortSignal;
  readonly started: number;
}

async function learn(job: TrainJob, of: Learning): Promise<Trained> {
  const { options } = job;
  const { rows, labels, layer, extract, signal, started } = of;
  const { labelSentences, trainHead: train } = await import('../learn/training/head.ts');
  const { PUBLIC_SENTENCES } = await import('../learn/training/public-text.ts');
  const publicFeatures = await extract(PUBLIC_SENTENCES, 'features of public sentences');
  if (publicFeatures.some(feature => feature.some(value => !Number.isFinite(value))))
    throw new LearndError('corrupt', `${options.model} gives features that are not finite numbers`, {
      hint: 'The file is damaged, or its training went astray; fetch or export it again.',
    });
  const labelFeatures: Float32Array[][] = [];
  for (const label of labels) labelFeatures.push(await extract(labelSentences(label), 'features of labels'));
  const before = performance.now();
  const features = await extract(
    rows.map(row => row.text),
    'features',
  );
  const tokensPerSecond = (1000 * of.tokens) / (performance.now() - before);
  const examples = new Map<string, { feature: Float32Array; label: number }[]>();
  for (const [i, { unit, label }] of rows.entries()) {
    const example = { feature: features[i]!, label: labels.indexOf(label!) };
    const before = examples.get(unit);
    if (before) before.push(example);
    else examples.set(unit, [example]);
  }
  const units = [...examples].map(([user, found]) => ({ user, examples: found }));
  const target = epsilonOf(options);
  const until = options.minutes === undefined ? Number.POSITIVE_INFINITY : started + options.minutes * 60_000;
  const trained = await train({
    task: options.label!,
    labels,
    units,
    publicFeatures,
    labelFeatures,
    // Outside the daemon the number of units is the caller's to publish: the file is theirs, and so is the result.
    privacy: target === null ? null : { epsilon: target, delta: deltaOf(options), expectedUnits: units.length },
    seed: partSeed(job.seed, 'head'),
    layer,
    featuresSha256: job.model,
    onStep: async (step, steps) => {
      await new Promise(resolve => setImmediate(resolve));
      if (signal.aborted) throw new LearndError('canceled', `stopped in step ${step} of ${steps}`);
      return performance.now() < until;
    },
  });
  await write(job, trained.head, of);
  await destroySeal(job.folder);
  const seconds = (performance.now() - started) / 1000;
  const spent = target === null ? null : epsilon([...trained.mechanisms], deltaOf(options));
  return {
    steps: trained.steps,
    epsilon: spent,
    delta: target === null ? null : deltaOf(options),
    noise_multiplier: trained.noiseMultiplier,
    loss: [...trained.losses],
    seconds_per_step: seconds / trained.steps,
    tokens_per_second: tokensPerSecond,
    peak_rss_mb: peakRssMb(),
    out: options.out,
  };
}

async function write(job: TrainJob, head: Head, { holdout, extract, layer, labels }: Learning): Promise<void> {
  const { out } = job.options;
  await saveHead(join(out, 'head.safetensors'), head);
  const about = { task: head.task, labels, features: 'features.gguf', base: job.model, layer, pooling: head.pooling };
  await writeAtomically(join(out, 'head.json'), textChunk(`${JSON.stringify(about, undefined, 2)}\n`));
  if (holdout === undefined) return;
  const found = await extract(
    holdout.map(row => row.text),
    'holdout',
  );
  const predicted = found.map(feature => {
    const scores = headScores(head, feature);
    return labels[scores.indexOf(Math.max(...scores))]!;
  });
  const lines = holdout.map(({ label }, i) => `${JSON.stringify({ true: label, predicted: predicted[i] })}\n`);
  await writeAtomically(join(out, 'predictions.jsonl'), textChunk(lines.join('')));
  const { weighted } = weightedF1(
    holdout.map(row => row.label!),
    predicted,
  );
  process.stderr.write(
    `weighted F1 ${weighted!.toFixed(4)} on ${holdout.length} rows of ${job.options.holdout} (learnd eval f1 --file ${join(out, 'predictions.jsonl')})\n`,
  );
}
