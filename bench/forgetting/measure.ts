import { parseArgs } from 'node:util';
import { cacheFolder } from '../../src/base/settings.ts';
import { resolveBase } from '../../src/learn/model/base.ts';
import { loadEngineAdapter, loadEngineModel, scoreTokens } from '../../src/learn/model/engine/index.ts';
import { openModel } from '../../src/learn/model/open.ts';
import { makePlan } from '../../src/learn/privacy/index.ts';
import { tensorflow } from '../../src/learn/tensor/backend.ts';
import { Terms, type TermsRequest } from '../../src/learn/training/constraints/index.ts';
import { anchorsOf } from '../../src/learn/training/public-terms.ts';
import { PUBLIC_SENTENCES } from '../../src/learn/training/public-text.ts';
import { type TrainRequest, trainToEnd } from '../../src/learn/training/trainer.ts';
import { banking77, missingBanking77 } from '../banking77.ts';
import { manual } from '../documents/texts.ts';
import type { BenchOptions, Row } from '../kit.ts';

const SEQUENCE = 64;
/** Sentences replayed and anchored; the others are held out. */
const REPLAYED = 120;
const UNITS = 1000;
const seed = new Uint8Array(32).fill(1);

/** Ways against forgetting, by name. */
const WAYS: Readonly<Record<string, (replay: number[][]) => TermsRequest & { ema?: number }>> = {
  nothing: () => ({}),
  'replay 5%': sequences => ({ replay: { share: 0.05, sequences } }),
  'replay 20%': sequences => ({ replay: { share: 0.2, sequences } }),
  'KL, weight 1': () => ({ kl: { weight: 1 } }),
  'replay 5%, KL 1': sequences => ({ replay: { share: 0.05, sequences }, kl: { weight: 1 } }),
  'replay 20%, KL 1': sequences => ({ replay: { share: 0.2, sequences }, kl: { weight: 1 } }),
  'KL at most 0.1': () => ({ constraints: [{ kind: 'kl_to_base', atMost: 0.1, hard: true }] }),
};

export async function measure({ args, quick, log }: BenchOptions): Promise<Row[]> {
  const { values } = parseArgs({
    args: [...args],
    options: {
      steps: { type: 'string', default: quick ? '4' : '40' },
      private: { type: 'boolean', default: false },
      ways: { type: 'string' },
      model: { type: 'string' },
    },
  });
  const missing = missingBanking77();
  if (missing !== undefined) throw new Error(missing);
  tensorflow({ threads: Number(process.env.TF_NUM_INTRAOP_THREADS ?? 2) });
  const path = values.model ?? (await resolveBase('smollm2-135m', { cacheDir: `${cacheFolder()}/models` })).path;
  const checkpoint = await openModel(path);
  const encode = (texts: readonly string[]): number[][] =>
    texts.map(text => checkpoint.tokenizer.encode(text).slice(0, SEQUENCE)).filter(tokens => tokens.length > 1);
  const train = encode(
    banking77('train')
      .filter((_, i) => i % 10 === 0)
      .slice(0, UNITS)
      .map(({ text }) => text),
  );
  const held = {
    inquiries: encode(
      banking77('test')
        .filter((_, i) => i % 20 === 0)
        .map(({ text }) => text),
    ),
    sentences: encode(PUBLIC_SENTENCES.slice(REPLAYED)),
    manual: encode(manual().heldOut.slice(0, 60)),
  };
  const replay = encode(PUBLIC_SENTENCES.slice(0, REPLAYED));
  const rows: Row[] = [];
  const isPrivate = values.private;
  for (const [way, terms] of Object.entries(WAYS)) {
    if (values.ways !== undefined && !values.ways.split(';').includes(way)) continue;
    const model = loadEngineModel(checkpoint);
    const perplexities = (adapter?: ReturnType<typeof loadEngineAdapter>): Record<string, number> =>
      Object.fromEntries(
        Object.entries(held).map(([name, texts]) => {
          const scores = scoreTokens(model, texts, { adapter });
          const nats = scores.reduce((sum, s) => sum + s.nll, 0);
          return [name, Math.exp(nats / scores.reduce((sum, s) => sum + s.tokens, 0))];
        }),
      );
    const told = (what: string, found: Record<string, number>, more = ''): void => {
      log(
        `${what}: ${Object.entries(found)
          .map(([name, value]) => `${name} ${value.toFixed(2)}`)
          .join(', ')}${more}`,
      );
      for (const [name, value] of Object.entries(found))
        rows.push({ what: `${what}: ${name}`, value, unit: 'perplexity' });
    };
    if (rows.length === 0) told('base', perplexities());
    const { ema, ...request } = terms(replay);
    const anchors = anchorsOf(model, replay.slice(0, 48));
    const beside = new Terms({ ...request, anchors });
    const started = performance.now();
    const common = { model, units: train.map(tokens => [{ tokens }]), beside, seed, ...(ema && { ema }) };
    const method: TrainRequest = isPrivate
      ? {
          ...{ ...common, method: { kind: 'norms', layers: 6 } },
          plan: makePlan({
            ...{ units: train.length, expectedUnits: UNITS, sampleRate: 0.5, steps: 8, delta: 1e-5, epsilon: 8 },
            ...{ clip: { kind: 'auto-s' }, unit: 'user', seed },
          }),
        }
      : {
          ...{ ...common, method: { kind: 'lora', rank: 8 }, steps: Number(values.steps), batch: 16 },
          schedule: { kind: 'cosine', warmup: 4, floor: 0.1 },
        };
    const result = await trainToEnd(method, ({ step, steps, loss }) =>
      process.stderr.write(`\r${way} ${step}/${steps} ${loss?.toFixed(3)}  `),
    );
    process.stderr.write('\n');
    const adapter = result.adapter && loadEngineAdapter(model, result.adapter);
    const kl = beside.report().map(({ after }) => `, KL ${after?.toFixed(3)}`);
    told(way, perplexities(adapter), `${kl} in ${((performance.now() - started) / 1000).toFixed(0)} s`);
    adapter?.dispose();
    beside.dispose();
    model.dispose();
  }
  return rows;
}
