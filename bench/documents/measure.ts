import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { cacheFolder } from '../../src/base/settings.ts';
import { resolveBase } from '../../src/learn/model/base.ts';
import { loadEngineModel, toHost } from '../../src/learn/model/engine/index.ts';
import type { Example } from '../../src/learn/model/engine/units.ts';
import { openModel } from '../../src/learn/model/open.ts';
import { type DpPlan, makePlan, noiseMultiplier } from '../../src/learn/privacy/index.ts';
import { tensorflow } from '../../src/learn/tensor/backend.ts';
import { chooseMethod, histogramNoise, PRIVATE_LAYERS, shapeOf } from '../../src/learn/training/auto.ts';
import { trainDocuments } from '../../src/learn/training/documents.ts';
import { unitExamples } from '../../src/learn/training/examples.ts';
import { PUBLIC_SENTENCES } from '../../src/learn/training/public-text.ts';
import {
  countVocabulary,
  denseBias,
  type VocabularyBias,
  type VocabularyCounts,
} from '../../src/learn/training/vocabulary-bias.ts';
import { HISTOGRAM_CLIP, RECIPES, sampleRate } from '../../src/loop/round/recipes.ts';
import { missingBanking77 } from '../banking77.ts';
import type { BenchOptions, Row } from '../kit.ts';
import { KeptStates, keptCounts, textsId } from './kept.ts';
import { heldOutScorer, type Perplexities } from './score.ts';
import { inquiries, manual, type Texts } from './texts.ts';

/** Per unit, as algorithms 12 has it. */
const DELTA = 1e-5;
/** Tokens of a text that are trained on; of a held-out one, twice as many are scored. Most inquiries have fewer than 30. */
const SEQUENCE = { inquiries: 96, manual: 64 } as const;

/** At least so much lower than the base, by units and epsilon (issue: "The learner"). */
const FLOORS: Readonly<Record<string, number>> = {
  '1000/8': 45,
  '1000/2': 30,
  '3000/8': 55,
  '9003/8': 60,
  '9003/2': 50,
};

/** Where the counts are cut in parts, so that sizes share them and a run that was cut off goes on. */
const COUNTED = [1000, 3000, 5000, 7000];

interface Cell {
  readonly units: number;
  readonly epsilon: number;
  readonly seed: number;
}

export async function measure({ args, quick, log }: BenchOptions): Promise<Row[]> {
  const { values, positionals } = parseArgs({
    args: [...args],
    allowPositionals: true,
    options: {
      units: { type: 'string', default: quick ? '200' : '1000,3000,9003' },
      epsilon: { type: 'string', default: quick ? '8' : '8,2' },
      seeds: { type: 'string', default: '1' },
      tuning: { type: 'boolean', default: false },
      histogram: { type: 'boolean', default: false },
    },
  });
  const corpus = positionals[0] === 'manual' ? 'manual' : 'inquiries';
  const missing = corpus === 'inquiries' ? missingBanking77() : undefined;
  if (missing !== undefined) throw new Error(missing);
  const texts: Texts = corpus === 'manual' ? manual() : inquiries();
  const threads = Number(process.env.TF_NUM_INTRAOP_THREADS ?? 2);
  tensorflow({ threads });
  const base = await resolveBase('smollm2-135m', { cacheDir: cacheFolder() });
  const checkpoint = await openModel(base.path);
  const { config, tokenizer } = checkpoint;
  const model = loadEngineModel(checkpoint);
  const sizes = values.units.split(',').map(n => Math.min(Number(n), texts.train.length));
  const most = Math.max(...sizes);
  const all: Example[][] = texts.train
    .slice(0, most)
    .map(text => unitExamples([tokenizer.encode(text)], SEQUENCE[corpus], 1));
  const from = config.layers - PRIVATE_LAYERS;
  const folder = join(cacheFolder(), 'bench-documents', base.sha256.slice(0, 12));
  // Which pages a manual has depends on the machine: the texts are part of the name.
  const kept = (part: 'train' | 'tuning' | 'heldOut', examples: readonly Example[]) =>
    new KeptStates(join(folder, `${corpus}-${part}-${textsId(texts[part])}-${from}.f32`), model, examples, {
      from,
      log,
    });
  const held = (values.tuning ? texts.tuning : texts.heldOut)
    .slice(0, quick ? 100 : 1000)
    .map(text => ({ tokens: tokenizer.encode(text).slice(0, 2 * SEQUENCE[corpus]) }))
    .filter(({ tokens }) => tokens.length > 1);
  const score = heldOutScorer(model, held, { cache: kept(values.tuning ? 'tuning' : 'heldOut', held), from });
  const publicText = PUBLIC_SENTENCES.map(text => tokenizer.encode(text));
  const before = await score();
  log(`${corpus}: base ${say(before)}`);
  const cache = kept('train', all.flat());
  const rows: Row[] = [];
  const trained = (key: string) => /norm\.weight$/.test(key);
  const start = new Map(
    model
      .parameterNames()
      .filter(trained)
      .map(key => [key, toHost(model.parameter(key))]),
  );
  const reset = (): void => {
    for (const [key, { data, shape }] of start)
      model.setParameter(key, tensorflow().keep(tensorflow().tensor(data, [...shape])));
  };
  const parameters = checkpoint.weights
    .names()
    .reduce((sum, key) => sum + checkpoint.weights.shape(key).reduce((a, b) => a * b, 1), 0);

  // The counts of some units are the same at every epsilon and seed: the noise is not. They add up, and each part is kept.
  const counted = new Map<number, VocabularyCounts>();
  const countsOf = async (n: number, planOf: (units: number) => DpPlan): Promise<VocabularyCounts> => {
    const known = counted.get(n);
    if (known !== undefined) return known;
    let counts: VocabularyCounts | undefined;
    const ends = [...COUNTED.filter(end => end < n), n];
    for (const [i, to] of ends.entries()) {
      const start = i === 0 ? 0 : ends[i - 1]!;
      const part = await keptCounts(folder, `${corpus}-${textsId(texts.train)}-counts-${start}-${to}`, () =>
        countVocabulary({
          ...{ model, units: all.slice(start, to), plan: planOf(to - start), publicText, lower: { cache, from } },
          onProgress: (done, total) => log(`counted ${start + done} of ${start + total} units`),
        }),
      );
      counts = counts === undefined ? part : added(counts, part);
    }
    counted.set(n, counts!);
    return counts!;
  };

  const one = async ({ units: n, epsilon, seed }: Cell): Promise<void> => {
    const units = all.slice(0, n);
    const planOf = (
      change: { steps: number; sampleRate: number; noiseMultiplier: number; clip: DpPlan['clip'] },
      part: number,
      units = n,
    ) =>
      makePlan({
        units,
        expectedUnits: units,
        delta: DELTA,
        unit: 'user',
        seed: Uint8Array.from({ length: 32 }, (_, i) => (i === 0 ? seed : part)),
        ...change,
      });
    const histogram = (share: number, units = n) =>
      planOf(
        { steps: 1, sampleRate: 1, noiseMultiplier: histogramNoise(epsilon, DELTA, share), clip: HISTOGRAM_CLIP },
        ...([1, units] as const),
      );
    const cell = `${n} units, epsilon ${epsilon}, seed ${seed}`;
    const report = async (
      what: string,
      bias: VocabularyBias | undefined,
      seconds: number,
      notes: readonly string[],
      floor?: number,
    ) => {
      const after = await score(bias && denseBias(bias, config.vocabSize));
      const lower = 100 * (1 - after.all / before.all);
      log(`${cell}, ${what}: ${say(after)}, ${lower.toFixed(1)}% lower, ${seconds.toFixed(0)} s; ${notes.join('; ')}`);
      rows.push({
        what: `${corpus}, ${cell}: ${what}`,
        value: lower,
        unit: '% lower',
        ...(floor !== undefined && { least: floor }),
        detail: `perplexity ${before.all.toFixed(1)} -> ${after.all.toFixed(2)}, without first tokens ${before.rest.toFixed(1)} -> ${after.rest.toFixed(2)} (${(100 * (1 - after.rest / before.rest)).toFixed(1)}% lower), ${seconds.toFixed(0)} s`,
      });
    };
    const choice = chooseMethod({
      data: 'documents',
      units: n,
      epsilon,
      delta: DELTA,
      shape: shapeOf(config, parameters),
    });
    const started = performance.now();
    const counts = await countsOf(n, units => histogram(1, units));
    if (values.histogram || choice.method === 'bias') {
      const alone = await trainDocuments({ model, units, histogram: { plan: histogram(1), counts } });
      await report(
        'histogram alone',
        alone.nothing === undefined ? alone.bias : undefined,
        (performance.now() - started) / 1000,
        alone.notes,
      );
      if (choice.method === 'bias') return;
    }
    if (choice.method !== 'norms')
      return log(`${cell}: auto takes ${choice.method}, which this bench does not run. ${choice.why}`);
    const recipe = RECIPES.norms;
    const rate = sampleRate(recipe, n);
    const first = histogram(choice.histogramShare);
    const sigma = noiseMultiplier({
      epsilon,
      delta: DELTA,
      sampleRate: rate,
      steps: recipe.steps,
      prior: [...first.mechanisms],
    });
    const plan = planOf({ steps: recipe.steps, sampleRate: rate, noiseMultiplier: sigma, clip: recipe.clip }, 2);
    const result = await trainDocuments({
      ...{ model, units, lower: { cache, from }, histogram: { plan: first, counts } },
      steps: { method: { kind: 'norms', layers: PRIVATE_LAYERS }, plan, seed: new Uint8Array(32).fill(seed) },
      onStep: ({ step, steps, tokensPerSecond }) =>
        log(`${cell}: step ${step} of ${steps}, ${tokensPerSecond.toFixed(0)} tokens/s`),
    });
    const took = (performance.now() - started) / 1000;
    await report(
      `auto (${choice.method})`,
      result.bias,
      took,
      [`${Math.round(100 * choice.histogramShare)}% to the histogram`, ...result.notes],
      corpus === 'inquiries' ? FLOORS[`${n}/${epsilon}`] : 0,
    );
    reset();
  };
  const [first, last] = values.seeds.includes('-') ? values.seeds.split('-').map(Number) : [1, Number(values.seeds)];
  for (let seed = first!; seed <= last!; seed++)
    for (const units of sizes)
      for (const epsilon of values.epsilon.split(',').map(Number)) await one({ units, epsilon, seed });
  model.dispose();
  return rows;
}

const say = ({ all, rest }: Perplexities): string =>
  `perplexity ${all.toFixed(2)} (${rest.toFixed(2)} without first tokens)`;

const added = (a: VocabularyCounts, b: VocabularyCounts): VocabularyCounts => ({
  ...a,
  sum: a.sum.map((value, i) => value + b.sum[i]!),
  units: a.units + b.units,
});
