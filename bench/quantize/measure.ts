import { existsSync, mkdirSync, statSync } from 'node:fs';
import { basename, join } from 'node:path';
import { parseArgs } from 'node:util';
import { cacheFolder } from '../../src/base/settings.ts';
import { quantizeModel } from '../../src/learn/compress/quantize.ts';
import { perplexity, perplexityChange, type TextLoss } from '../../src/learn/metrics/perplexity.ts';
import { resolveBase } from '../../src/learn/model/base.ts';
import { loadEngineModel, scoreTokens } from '../../src/learn/model/engine/index.ts';
import { openModel } from '../../src/learn/model/open.ts';
import { tensorflow } from '../../src/learn/tensor/backend.ts';
import { banking77, missingBanking77 } from '../banking77.ts';
import { prose } from '../compress/texts.ts';
import type { BenchOptions, Row } from '../kit.ts';

export async function measure(options: BenchOptions): Promise<Row[]> {
  const { args, quick, log } = options;
  const { values } = parseArgs({
    args: [...args],
    options: {
      types: { type: 'string', default: 'f32,f16,bf16,q8_0,q6_k,q5_1,q5_k,q5_0,q4_1,q4_k,q4_0' },
      model: { type: 'string', default: 'smollm2-135m' },
      lines: { type: 'string', default: quick ? '8' : '128' },
      folder: { type: 'string', default: join(cacheFolder(), 'bench-quantize') },
      speed: { type: 'boolean', default: false },
    },
  });
  mkdirSync(values.folder, { recursive: true });
  const base = existsSync(values.model)
    ? values.model
    : (await resolveBase(values.model, { cacheDir: `${cacheFolder()}/models` })).path;
  const source = await openModel(base);
  const types = values.types.split(',');
  const files: string[] = [];
  for (const type of types) {
    const out = join(values.folder, `${basename(base).replace(/\.gguf$/, '')}.${type}.gguf`);
    files.push(out);
    if (existsSync(out)) continue;
    const { notes } = await quantizeModel(source, out, { type, source });
    log(`${type}: ${notes.join('; ')}`);
  }
  if (values.speed) {
    const { timed } = await import('../compress/speed.ts');
    const found = await timed(files, options);
    return found.flatMap(({ prefill, generate }, i) => [
      { what: `${types[i]}: written`, value: generate, unit: 'tokens/s' },
      { what: `${types[i]}: read`, value: prefill, unit: 'tokens/s' },
    ]);
  }
  const missing = missingBanking77();
  if (missing !== undefined) throw new Error(missing);
  tensorflow({ threads: Number(process.env.TF_NUM_INTRAOP_THREADS ?? 2) });
  const every = Math.floor(3080 / Number(values.lines));
  const texts = [
    ...banking77('test')
      .filter((_, i) => i % every === 0)
      .map(row => row.text),
    ...prose(),
  ];
  const rows: Row[] = [];
  let first: readonly TextLoss[] | undefined;
  for (const [i, type] of types.entries()) {
    const losses = await lossesOf(files[i]!, texts);
    first ??= losses;
    const { perplexity: value, perplexityError } = perplexity(losses);
    const { change, standardError } = perplexityChange(first, losses)!;
    const error = standardError ?? Number.NaN;
    rows.push(
      { what: `${type}: size`, value: statSync(files[i]!).size / 1e6, unit: 'MB' },
      { what: `${type}: perplexity`, value: value!, unit: '', detail: `+- ${perplexityError!.toFixed(2)}` },
      {
        what: `${type}: change from ${types[0]}`,
        value: 100 * change,
        unit: '%',
        detail: `+- ${(100 * error).toFixed(2)} (the same texts: paired)`,
      },
    );
    log(`${type}: ${value} ${change} +- ${error}`);
  }
  return rows;
}

async function lossesOf(path: string, texts: readonly string[]): Promise<TextLoss[]> {
  const checkpoint = await openModel(path);
  const model = loadEngineModel(checkpoint);
  try {
    const scores = scoreTokens(
      model,
      texts.map(text => checkpoint.tokenizer.encode(text).slice(0, 512)),
    );
    return scores.map((s, i) => ({ ...s, bytes: Buffer.byteLength(texts[i]!) }));
  } finally {
    model.dispose();
  }
}
