import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { cacheFolder } from '../../src/base/settings.ts';
import { headF1 } from '../../src/cli/build-head.ts';
import { prune } from '../../src/cli/model.ts';
import { separatorOf } from '../../src/learn/build/vocabulary.ts';
import { cacheTargets, distill, distillExamples, type TargetCache } from '../../src/learn/compress/distill.ts';
import { resolveBase } from '../../src/learn/model/base.ts';
import { loadEngineModel } from '../../src/learn/model/engine/index.ts';
import type { Example } from '../../src/learn/model/engine/units.ts';
import { EditedWeights, writeModelGguf } from '../../src/learn/model/export.ts';
import { openModel } from '../../src/learn/model/open.ts';
import { tensorflow } from '../../src/learn/tensor/backend.ts';
import { missingBanking77 } from '../banking77.ts';
import type { BenchOptions, Row } from '../kit.ts';
import { perplexities } from './score.ts';
import { calibration, heldOut, intents, prose, recovery } from './texts.ts';
import { SHOWN, WAYS } from './ways.ts';

const [SEQUENCE, BATCH, TOP_K] = [128, 8, 64];

/** What was measured of a model. */
interface Measured {
  readonly parameters: number;
  readonly inquiries: number;
  readonly inquiriesError: number;
  readonly prose: number;
  readonly proseError: number;
  /** Of heads on the first third of the layers, and on all of them. */
  readonly f1: number | null;
  readonly f1Whole: number | null;
  readonly kept?: readonly number[];
  readonly seconds?: number;
}

export async function measure({ args, quick, log }: BenchOptions): Promise<Row[]> {
  const { values } = parseArgs({
    args: [...args],
    options: {
      ways: { type: 'string', default: SHOWN.join(';') },
      recover: { type: 'string', default: 'flap;magnitude;random' },
      steps: { type: 'string', default: quick ? '4' : '40' },
      rate: { type: 'string', default: '5e-4' },
      folder: { type: 'string', default: join(cacheFolder(), 'bench-compress') },
    },
  });
  const missing = missingBanking77();
  if (missing !== undefined) throw new Error(missing);
  const { folder } = values;
  mkdirSync(folder, { recursive: true });
  tensorflow({ threads: Number(process.env.TF_NUM_INTRAOP_THREADS ?? 2) });
  const base = (await resolveBase('smollm2-135m', { cacheDir: `${cacheFolder()}/models` })).path;
  const record = join(folder, 'measured.json');
  const known = (existsSync(record) ? JSON.parse(readFileSync(record, 'utf8')) : {}) as Record<string, Measured>;
  const told: string[] = [];
  const once = async (name: string, path: string, make: () => Promise<Partial<Measured>>): Promise<void> => {
    told.push(name);
    if (known[name] === undefined) {
      known[name] = { ...(await make()), ...(await scores(path)) };
      writeFileSync(record, `${JSON.stringify(known, null, 1)}\n`);
    }
    log(`${name}: ${JSON.stringify(known[name])}`);
  };
  await once('whole', base, async () => ({}));
  const calibrated = join(folder, 'calibration.txt');
  writeFileSync(calibrated, calibration().join('\n'));
  const list = (names: string): string[] => names.split(';').filter(name => name !== '');
  for (const way of list(values.ways)) {
    const out = join(folder, `${slug(way)}.gguf`);
    await once(way, out, async () => {
      const started = performance.now();
      const { kept_layers: kept } = await prune({ model: base, calibration: calibrated, ...WAYS[way]!, out });
      return { ...(kept && { kept }), seconds: (performance.now() - started) / 1000 };
    });
  }
  for (const way of list(values.recover)) {
    const from = join(folder, `${slug(way)}.gguf`);
    const plan = { steps: Number(values.steps), rate: Number(values.rate) };
    const name = `${way}, ${plan.steps} steps`;
    const out = join(folder, `${slug(name)}.gguf`);
    await once(name, out, () => recover(base, from, out, plan, folder, log));
  }
  return told.flatMap(name => rowsOf(name, known[name]!));
}

const slug = (name: string): string => name.replace(/[^a-z0-9]+/gi, '-');

async function scores(path: string): Promise<Measured> {
  const [inquiries, general] = await perplexities(path, [heldOut(), prose()]);
  const checkpoint = await openModel(path);
  const { config, weights } = checkpoint;
  const parameters = weights.names().reduce((sum, n) => sum + weights.shape(n).reduce((a, b) => a * b, 1), 0);
  const rows = intents(15, 20, 1);
  const f1 = async (layers: number): Promise<number | null> => await headF1(path, { ...rows, layers });
  return {
    parameters,
    inquiries: inquiries!.perplexity!,
    inquiriesError: inquiries!.perplexityError!,
    prose: general!.perplexity!,
    proseError: general!.perplexityError!,
    f1: await f1(Math.round(config.layers / 3)),
    f1Whole: await f1(config.layers),
  };
}

/** The same text, steps and rates for every student; the teacher is asked once for all of them. */
async function recover(
  base: string,
  from: string,
  out: string,
  { steps, rate }: { steps: number; rate: number },
  folder: string,
  log: (line: string) => void,
): Promise<Partial<Measured>> {
  const checkpoint = await openModel(from);
  const texts = recovery(steps < 10 ? 30 : 2400);
  const examples = distillExamples(
    texts.map(text => checkpoint.tokenizer.encode(text)),
    SEQUENCE,
    separatorOf(checkpoint.tokenizer),
  );
  const cache = await teacherCache(base, examples, folder, log);
  const student = loadEngineModel(checkpoint);
  const started = performance.now();
  try {
    const work = distill({
      ...{ student, examples, steps, batch: BATCH, learningRate: rate, name: base },
      from: { kind: 'cached', cache, temperature: 1, labels: 0 },
      seed: createHash('sha256').update('compress').digest(),
    });
    let next = await work.next();
    for (; !next.done; next = await work.next())
      log(`step ${next.value.step} of ${steps}: ${next.value.loss?.toFixed(3)} nats from the teacher`);
    const parts = { ...checkpoint, weights: EditedWeights.overlay(checkpoint.weights, next.value.weights!) };
    await writeModelGguf(parts, out, { type: 'f16', source: checkpoint });
    return { seconds: (performance.now() - started) / 1000 };
  } finally {
    student.dispose();
  }
}

/** What the teacher says, kept in the folder. */
async function teacherCache(
  base: string,
  examples: readonly Example[],
  folder: string,
  log: (line: string) => void,
): Promise<TargetCache> {
  const key = createHash('sha256')
    .update(JSON.stringify([TOP_K, examples]))
    .digest('hex')
    .slice(0, 16);
  const file = join(folder, `teacher-${key}`);
  if (!existsSync(file)) {
    const model = loadEngineModel(await openModel(base));
    try {
      const cache = await cacheTargets({ model }, examples, {
        topK: TOP_K,
        onProgress: (done, total) => log(`teacher: ${done} of ${total} sequences`),
      });
      const parts = examples.flatMap(example => {
        const { tokens, probabilities } = cache.get(example)!;
        return [Int32Array.of(tokens.length), tokens, probabilities];
      });
      writeFileSync(file, Buffer.concat(parts.map(p => new Uint8Array(p.buffer, p.byteOffset, p.byteLength))));
    } finally {
      model.dispose();
    }
  }
  const bytes = readFileSync(file);
  const { buffer } = new Uint8Array(bytes);
  const cache = new Map<Example, { k: number; tokens: Int32Array; probabilities: Float32Array }>();
  let at = 0;
  for (const example of examples) {
    const [length] = new Int32Array(buffer, at, 1) as unknown as [number];
    cache.set(example, {
      k: TOP_K,
      tokens: new Int32Array(buffer, at + 4, length),
      probabilities: new Float32Array(buffer, at + 4 + 4 * length, length),
    });
    at += 4 + 8 * length;
  }
  return cache;
}

const rowsOf = (name: string, m: Measured): Row[] => [
  { what: `${name}: parameters`, value: m.parameters / 1e6, unit: 'M' },
  { what: `${name}: inquiries`, value: m.inquiries, unit: 'perplexity', detail: `+- ${m.inquiriesError.toFixed(1)}` },
  { what: `${name}: prose`, value: m.prose, unit: 'perplexity', detail: `+- ${m.proseError.toFixed(1)}` },
  ...(m.f1 !== null && m.f1Whole !== null
    ? [
        { what: `${name}: F1, head on a third of the layers`, value: m.f1, unit: '' },
        { what: `${name}: F1, head on all layers`, value: m.f1Whole, unit: '' },
      ]
    : []),
];
