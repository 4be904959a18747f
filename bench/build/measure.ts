import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { stringify } from 'yaml';
import { cacheFolder } from '../../src/base/settings.ts';
import { human, run } from '../../src/cli/build.ts';
import { banking77, type Labelled, missingBanking77 } from '../banking77.ts';
import { intents } from '../compress/texts.ts';
import type { BenchOptions, Row } from '../kit.ts';

const jsonl = (rows: readonly Labelled[]): string => rows.map(row => `${JSON.stringify(row)}\n`).join('');

/** Always from the beginning: what is timed is the whole. */
export async function measure({ args, quick, log }: BenchOptions): Promise<Row[]> {
  const { values } = parseArgs({
    args: [...args],
    options: {
      steps: { type: 'string', default: quick ? '10' : '300' },
      hidden: { type: 'string', default: '128' },
      layers: { type: 'string', default: '4' },
      folder: { type: 'string', default: join(cacheFolder(), 'bench-build') },
    },
  });
  const missing = missingBanking77();
  if (missing !== undefined) throw new Error(missing);
  const { folder } = values;
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  const put = (name: string, text: string): string => {
    writeFileSync(join(folder, name), text);
    return name;
  };
  const { train, test } = intents(15, 40, 1);
  const [steps, hidden] = [Number(values.steps), Number(values.hidden)];
  const build = {
    out: 'built',
    text: put(
      'text.txt',
      `${banking77('train')
        .map(({ text }) => text)
        .join('\n')}\n`,
    ),
    documents: 'line',
    tokenizer: { vocab: 2048 },
    pretrain: {
      ...{ objective: 'mixed', masked_share: 0.25, hidden, layers: Number(values.layers), heads: 4 },
      ...{ context: 512, sequence: 128, batch: 8, steps },
    },
    prune: { ffn: Math.round((hidden * 8) / 3 / 32 / 1.5) * 32 },
    distill: { steps: Math.ceil(steps / 4) },
    quantize: { type: 'q8_0' },
    evaluate: {
      text: put(
        'held-out.txt',
        `${banking77('test')
          .filter((_, i) => i % 12 === 0)
          .map(({ text }) => text)
          .join('\n')}\n`,
      ),
      labels: {
        file: put('intents-held-out.jsonl', jsonl(test.filter((_, i) => i % 4 === 0))),
        head: put('intents.jsonl', jsonl(train)),
      },
      speed: { requests: 4, tokens: 24 },
    },
  };
  const config = join(folder, 'build.yaml');
  writeFileSync(config, stringify(build));
  const started = performance.now();
  const built = await run({ config });
  const seconds = (performance.now() - started) / 1000;
  log(human(built));
  const stages = built.stages.filter(({ evaluation }) => evaluation !== null);
  return [
    { what: 'end to end', value: seconds, unit: 's', goal: 600, detail: 'with all evaluations' },
    ...built.stages.map(({ stage, seconds: value }) => ({ what: `${stage}: time`, value, unit: 's' })),
    ...stages.flatMap(({ stage, evaluation }) => [
      { what: `${stage}: size`, value: evaluation!.size_mb, unit: 'MB' },
      { what: `${stage}: inquiries`, value: evaluation!.bits_per_byte!, unit: 'bits per byte' },
      { what: `${stage}: head on 15 intents`, value: evaluation!.head_f1!, unit: 'F1' },
      { what: `${stage}: written`, value: evaluation!.tokens_per_second ?? 0, unit: 'tokens/s' },
    ]),
  ];
}
