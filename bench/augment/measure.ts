import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { cacheFolder } from '../../src/base/settings.ts';
import { MODEL_OPERATIONS, OPERATIONS, type Operation, variantGroups } from '../../src/learn/augment/index.ts';
import { type FeatureExtractor, openGguf } from '../../src/learn/llama/index.ts';
import { weightedF1 } from '../../src/learn/metrics/f1.ts';
import { headScores } from '../../src/learn/model/head.ts';
import { trainHead } from '../../src/learn/training/head.ts';
import { banking77, missingBanking77 } from '../banking77.ts';
import { shuffled } from '../documents/texts.ts';
import { type FeatureSet, featureFile, featureSet, LAYER } from '../heads/features.ts';
import type { BenchOptions, Row } from '../kit.ts';
import { type ModelTexts, modelTexts } from './by-model.ts';

const WAYS: Readonly<Record<string, readonly Operation[]>> = {
  none: [],
  ...Object.fromEntries(OPERATIONS.map(operation => [operation, [operation]])),
  all: OPERATIONS,
};

interface Slice {
  /** Of the whole set. */
  readonly labels: readonly number[];
  /** Training rows, label by label. */
  readonly rows: readonly number[];
  readonly test: readonly number[];
}

export async function measure({ args, quick, log }: BenchOptions): Promise<Row[]> {
  const { values } = parseArgs({
    args: [...args],
    options: {
      seeds: { type: 'string', default: quick ? '2' : '8' },
      each: { type: 'string', default: '5' },
      intents: { type: 'string', default: '15' },
      count: { type: 'string', default: '4' },
      alpha: { type: 'string', default: '0.1' },
      ways: { type: 'string', default: Object.keys(WAYS).join(',') },
      folder: { type: 'string', default: join(cacheFolder(), 'bench-heads') },
    },
  });
  const missing = missingBanking77();
  if (missing !== undefined) throw new Error(missing);
  const models = `${cacheFolder()}/models`;
  const set = await featureSet(values.folder, models, log);
  const model = await openGguf(await featureFile(values.folder, models));
  const extractor = await model.createFeatureExtractor();
  const texts = banking77('train');
  const ways = values.ways.split(',');
  const found = Object.fromEntries(ways.map(way => [way, [] as number[]]));
  const settings = { count: Number(values.count), alpha: Number(values.alpha) };
  try {
    for (let seed = 0; seed < Number(values.seeds); seed++) {
      const slice = sliceOf(set, { intents: Number(values.intents), each: Number(values.each), seed });
      const names = slice.labels.map(label => set.labels[label]!);
      for (const way of ways) {
        const operation = MODEL_OPERATIONS.find(name => name === way);
        const rows = slice.rows.map(i => ({ text: texts[i]!.text, label: set.labels[set.train.labels[i]!]! }));
        const made: ModelTexts =
          operation === undefined
            ? { groups: await byWords(WAYS[way]!, rows, { ...settings, labels: names, seed: String(seed) }), more: [] }
            : await modelTexts(operation, rows, names, { models, log, count: settings.count, seed: String(seed) });
        found[way]!.push(await f1(set, slice, extractor, made));
      }
      log(`seed ${seed}: ${ways.map(way => `${way} ${found[way]!.at(-1)!.toFixed(3)}`).join(', ')}`);
    }
  } finally {
    await extractor.dispose();
    await model.dispose();
  }
  return ways.flatMap(way => {
    const { mean, deviation } = spread(found[way]!);
    const gain = spread(found[way]!.map((value, i) => value - found[ways[0]!]![i]!));
    const row = {
      what: `${way}: weighted F1`,
      value: mean,
      unit: '',
      detail: `standard deviation ${three(deviation)}`,
    };
    if (way === ways[0]) return [row];
    const error = gain.deviation / Math.sqrt(found[way]!.length);
    const better = found[way]!.filter((value, i) => value > found[ways[0]!]![i]!).length;
    const detail = `+- ${three(100 * error)} (the same slices: paired); better in ${better} of ${found[way]!.length}`;
    return [row, { what: `${way}: gain`, value: 100 * gain.mean, unit: 'points', detail }];
  });
}

const three = (value: number): string => String(Number(value.toPrecision(3)));

function spread(values: readonly number[]): { mean: number; deviation: number } {
  const mean = values.reduce((a, b) => a + b, 0) / values.length;
  return { mean, deviation: Math.sqrt(values.reduce((sum, v) => sum + (v - mean) ** 2, 0) / (values.length - 1)) };
}

function sliceOf(set: FeatureSet, { intents, each, seed }: { intents: number; each: number; seed: number }): Slice {
  const labels = shuffled([...set.labels.keys()], 2 * seed + 1)
    .slice(0, intents)
    .sort((a, b) => a - b);
  const order = shuffled([...set.train.labels.keys()], 2 * seed + 2);
  return {
    labels,
    rows: labels.flatMap(label => order.filter(i => set.train.labels[i] === label).slice(0, each)),
    test: [...set.test.labels.keys()].filter(i => labels.includes(set.test.labels[i]!)),
  };
}

/** Variants of each row. */
async function byWords(
  operations: readonly Operation[],
  rows: readonly { readonly text: string }[],
  options: { count: number; alpha: number; seed: string; labels: readonly string[] },
): Promise<string[][]> {
  if (operations.length === 0) return rows.map(() => []);
  const groups = await variantGroups(
    rows.map(row => row.text),
    { ...options, operations },
  );
  return groups.map(group => group.slice(1));
}

/**
 * Weighted F1 on the slice's test rows of a head for which an example and its variants count as one example, as do all texts that were
 * written for one label.
 */
async function f1(
  set: FeatureSet,
  { labels, rows, test }: Slice,
  extractor: FeatureExtractor,
  { groups, more }: ModelTexts,
): Promise<number> {
  const names = labels.map(label => set.labels[label]!);
  const units = [];
  for (const [n, i] of rows.entries()) {
    const variants = await extractor.features(groups[n] ?? []);
    const label = labels.indexOf(set.train.labels[i]!);
    const examples = [set.train.features[i]!, ...variants].map(feature => ({ feature, label }));
    units.push({ user: String(i), examples });
  }
  for (const [label, written] of more.entries()) {
    if (written.length === 0) continue;
    const features = await extractor.features(written);
    units.push({ user: `written ${label}`, examples: features.map(feature => ({ feature, label })) });
  }
  const { head } = await trainHead({
    ...{ task: 'intent', labels: names, units, publicFeatures: set.public, layer: LAYER, featuresSha256: '' },
    labelFeatures: labels.map(label => set.names[label]!),
    privacy: null,
  });
  const predicted = test.map(i => {
    const scores = headScores(head, set.test.features[i]!);
    return names[scores.indexOf(Math.max(...scores))]!;
  });
  return weightedF1(
    test.map(i => set.labels[set.test.labels[i]!]!),
    predicted,
  ).weighted!;
}
