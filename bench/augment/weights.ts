import { parseArgs } from 'node:util';
import { cacheFolder } from '../../src/base/settings.ts';
import { OPERATIONS, type Operation, variantGroups } from '../../src/learn/augment/index.ts';
import { resolveBase } from '../../src/learn/model/base.ts';
import { loadEngineAdapter, loadEngineModel, scoreTokens } from '../../src/learn/model/engine/index.ts';
import type { Example } from '../../src/learn/model/engine/units.ts';
import { openModel } from '../../src/learn/model/open.ts';
import { tensorflow } from '../../src/learn/tensor/backend.ts';
import { unitGroups } from '../../src/learn/training/examples.ts';
import { variantUnits } from '../../src/learn/training/objectives/index.ts';
import { trainToEnd } from '../../src/learn/training/trainer.ts';
import { banking77, missingBanking77 } from '../banking77.ts';
import { shuffled } from '../documents/texts.ts';
import type { BenchOptions, Row } from '../kit.ts';

const WAYS: Readonly<Record<string, readonly Operation[]>> = {
  none: [],
  ...Object.fromEntries(OPERATIONS.map(operation => [operation, [operation]])),
  all: OPERATIONS,
};
const SEQUENCE = 64;

/**
 * LoRA on a few inquiries as text, as `learnd train --method lora --epsilon none --augment` does it, and the perplexity of other
 * inquiries: what variants of text that is itself learned are worth, by operation.
 */
export async function measureWeights({ args, quick, log }: BenchOptions): Promise<Row[]> {
  const { values } = parseArgs({
    args: args.filter(arg => arg !== '--weights'),
    options: {
      seeds: { type: 'string', default: quick ? '0' : '0,1,2' },
      texts: { type: 'string', default: '75' },
      count: { type: 'string', default: '2' },
      steps: { type: 'string', default: quick ? '3' : '30' },
      test: { type: 'string', default: quick ? '20' : '200' },
      ways: { type: 'string', default: 'none,synonym,all' },
    },
  });
  const missing = missingBanking77();
  if (missing !== undefined) throw new Error(missing);
  tensorflow({ threads: Number(process.env.TF_NUM_INTRAOP_THREADS ?? 2) });
  const checkpoint = await openModel((await resolveBase('smollm2-135m', { cacheDir: `${cacheFolder()}/models` })).path);
  const model = loadEngineModel(checkpoint);
  const encode = (text: string) => checkpoint.tokenizer.encode(text);
  const every = Math.floor(3080 / Number(values.test));
  const test = banking77('test').filter((_, i) => i % every === 0);
  const held = test.map(({ text }) => encode(text));
  const nll = (adapter?: ReturnType<typeof loadEngineAdapter>): number => {
    const scores = scoreTokens(model, held, adapter && { adapter });
    return scores.reduce((sum, s) => sum + s.nll, 0) / scores.reduce((sum, s) => sum + s.tokens, 0);
  };
  const ways = values.ways.split(',');
  const found = Object.fromEntries(ways.map(way => [way, [] as number[]]));
  const rows: Row[] = [{ what: 'before: perplexity', value: Math.exp(nll()), unit: '' }];
  for (const seed of values.seeds.split(',').map(Number)) {
    const texts = shuffled(banking77('train'), 2 * seed + 1).slice(0, Number(values.texts));
    for (const way of ways) {
      const units = await examplesOf(
        texts.map(({ text }) => text),
        { way, count: Number(values.count), seed, encode },
      );
      const trained = await trainToEnd({
        ...{ model, method: { kind: 'lora', rank: 8 }, ...units },
        ...{ steps: Number(values.steps), batch: Math.min(32, texts.length) },
        schedule: { kind: 'cosine', warmup: 5, floor: 0.1 },
        seed: new Uint8Array(32).fill(seed + 1),
      });
      const adapter = loadEngineAdapter(model, trained.adapter!);
      found[way]!.push(nll(adapter));
      adapter.dispose();
      log(`seed ${seed}, ${way}: ${Math.exp(found[way]!.at(-1)!).toFixed(2)}`);
    }
  }
  model.dispose();
  for (const way of ways) {
    const mean = (of: readonly number[]) => of.reduce((a, b) => a + b, 0) / of.length;
    rows.push({ what: `${way}: perplexity`, value: Math.exp(mean(found[way]!)), unit: '' });
    if (way === ways[0]) continue;
    const change = found[way]!.map((value, i) => value - found[ways[0]!]![i]!);
    const average = mean(change);
    const deviation = Math.sqrt(change.reduce((sum, c) => sum + (c - average) ** 2, 0) / (change.length - 1));
    const error = 100 * (deviation / Math.sqrt(change.length));
    rows.push({
      what: `${way}: change from ${ways[0]}`,
      value: 100 * Math.expm1(average),
      unit: '%',
      detail: `${Number.isNaN(error) ? 'one slice' : `+- ${error.toFixed(2)} (the same texts: paired)`}; better in ${change.filter(c => c < 0).length} of ${change.length}`,
    });
  }
  return rows;
}

async function examplesOf(
  texts: readonly string[],
  { way, count, seed, encode }: { way: string; count: number; seed: number; encode: (text: string) => number[] },
) {
  const operations = WAYS[way]!;
  const groups =
    operations.length === 0
      ? texts.map(text => [text])
      : await variantGroups(texts, { seed: String(seed), count, operations });
  const units: Example[][][] = groups.map(([text, ...variants]) =>
    unitGroups([{ tokens: encode(text!), variants: variants.map(encode) }], SEQUENCE),
  );
  return variantUnits(units, 'tokens');
}
