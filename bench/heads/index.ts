/** A head round against the clock, and its features against llama.cpp's own prefill. `-- heads accuracy`, `twin`, `language`: tables. */
import { mkdtempSync, rmSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { cacheFolder } from '../../src/base/settings.ts';
import { banking77, missingBanking77 } from '../banking77.ts';
import { alternate, type BenchOptions, median, type Row } from '../kit.ts';

export const name = 'heads';
export const title =
  'A private classification head: round time, feature speed against llama.cpp, accuracy against Opacus';

const INQUIRIES = 1500;
const INTENTS = 15;

export async function run(options: BenchOptions): Promise<readonly Row[]> {
  const missing = missingBanking77();
  if (missing !== undefined) {
    options.log(`heads: ${missing}`);
    return [];
  }
  const folder = join(cacheFolder(), 'bench-heads');
  const models = join(cacheFolder(), 'models');
  if (options.args[0] === 'accuracy') return await (await import('./accuracy.ts')).accuracy(folder, models, options);
  if (options.args[0] === 'twin') return await (await import('./twin.ts')).twin(folder, models, options);
  if (options.args[0] === 'language') return await (await import('./language.ts')).language(folder, models, options);
  return [...(await featureSpeed(folder, models, options)), ...(await round(folder, models, options))];
}

/** The same file and threads: short inquiries one by one as a round reads them, and full batches of one long text, which is prefill alone. */
async function featureSpeed(folder: string, models: string, { quick }: BenchOptions): Promise<Row[]> {
  const { featureFile } = await import('./features.ts');
  const { openGguf } = await import('../../src/learn/llama/index.ts');
  const model = await openGguf(await featureFile(folder, models));
  const contexts = Math.min(2, availableParallelism());
  const extractor = await model.createFeatureExtractor({ threads: 1, contexts });
  const texts = banking77('train')
    .slice(0, quick ? 20 : 200)
    .map(row => row.text);
  const tokens = texts.reduce((sum, text) => sum + model.tokenize(text).length, 0);
  const joined = model.tokenize(texts.join(' ')).slice(0, 500);
  const long = model.detokenize(joined);
  const times = Math.max(contexts, Math.round(tokens / joined.length / contexts) * contexts);
  const seconds = await alternate(
    {
      features: async () => {
        await extractor.features(texts);
        return undefined;
      },
      prefill: async () => {
        await extractor.features(Array.from({ length: times }, () => long));
        return undefined;
      },
    },
    quick ? 1 : 5,
  );
  await extractor.dispose();
  await model.dispose();
  const features = tokens / median(seconds.features);
  const prefill = (times * joined.length) / median(seconds.prefill);
  return [
    {
      what: "features of short inquiries / llama.cpp's prefill, same layers",
      value: features / prefill,
      unit: 'x',
      least: 0.8,
      detail: `${Math.round(features)} and ${Math.round(prefill)} tokens/s, ${contexts} contexts of one thread`,
    },
    { what: 'inquiries', value: texts.length / median(seconds.features), unit: '/s' },
  ];
}

/** The job that a round's worker runs, in a process of its own: features of public sentences, labels and rows, the steps, the file. */
async function round(folder: string, models: string, { quick }: BenchOptions): Promise<Row[]> {
  const { featureFile } = await import('./features.ts');
  const { ComputeWorker } = await import('../../src/learn/worker/client.ts');
  const { headPlan, HEAD_CLIP } = await import('../../src/learn/training/head.ts');
  const features = await featureFile(folder, models);
  const all = banking77('train');
  const labels = [...new Set(all.map(row => row.label))].sort().slice(0, INTENTS);
  const count = quick ? 100 : INQUIRIES;
  const examples = all
    .filter(row => labels.includes(row.label))
    .slice(0, count)
    .map((row, i) => ({ ...row, unit: `u${i % (count / 5)}` }));
  const users = count / 5;
  const plan = headPlan({ units: users, expectedUnits: users, epsilon: 8, delta: 1e-6 });
  const scratch = mkdtempSync(join(tmpdir(), 'learnd-bench-heads-'));
  const worker = new ComputeWorker({ threads: 2 });
  const started = performance.now();
  let afterFeatures = started;
  try {
    await worker.call(
      'train-head',
      {
        ...{ features, base: '', layer: 10, task: 'intent', labels, examples, maxSeconds: 600 },
        noise: {
          ...{ noiseMultiplier: plan.noiseMultiplier, sampleRate: 1, steps: plan.steps, clip: HEAD_CLIP },
          ...{ expectedUnits: users, delta: 1e-6, seed: '5a'.repeat(32) },
        },
        out: join(scratch, 'head.safetensors'),
      },
      {
        onProgress: ({ stage }) => {
          if (stage !== 'steps') afterFeatures = performance.now();
        },
      },
    );
  } finally {
    await worker.close();
    rmSync(scratch, { recursive: true, force: true });
  }
  const total = (performance.now() - started) / 1000;
  return [
    {
      what: `head round, ${count} inquiries of ${INTENTS} intents, features included`,
      value: total,
      unit: 's',
      ...(quick ? {} : { most: 60 }),
      detail: `features ${((afterFeatures - started) / 1000).toFixed(1)} s, steps ${(total - (afterFeatures - started) / 1000).toFixed(1)} s`,
    },
  ];
}
