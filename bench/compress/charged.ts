import { parseArgs } from 'node:util';
import { cacheFolder } from '../../src/base/settings.ts';
import { neededOf, type PruneByTextPlan, pruneByText } from '../../src/learn/compress/by-text.ts';
import { clippedSum, publicNorm, statisticsFrom } from '../../src/learn/compress/charged.ts';
import { type CalibrationStatistics, calibrationStatistics } from '../../src/learn/compress/statistics.ts';
import { perplexity } from '../../src/learn/metrics/perplexity.ts';
import { resolveBase } from '../../src/learn/model/base.ts';
import { loadEngineModel, scoreTokens } from '../../src/learn/model/engine/index.ts';
import { openModel } from '../../src/learn/model/open.ts';
import { noiseMultiplier } from '../../src/learn/privacy/accountant.ts';
import { makePlan } from '../../src/learn/privacy/plan.ts';
import { tensorflow } from '../../src/learn/tensor/backend.ts';
import { PUBLIC_SENTENCES } from '../../src/learn/training/public-text.ts';
import { banking77, missingBanking77 } from '../banking77.ts';
import { shuffled } from '../documents/texts.ts';
import type { BenchOptions, Row } from '../kit.ts';
import { heldOut } from './texts.ts';

const DELTA = 1e-6;

/**
 * Perplexity of held-out inquiries after pruning without recovery, calibrated on the same inquiries in two ways: as if they were public,
 * and as one user's each, released at an epsilon; and on the public sentences alone, which cost nothing either.
 */
export async function charged({ args, quick, log }: BenchOptions): Promise<Row[]> {
  const { values } = parseArgs({
    args: [...args],
    options: {
      epsilons: { type: 'string', default: '8,2' },
      units: { type: 'string', default: quick ? '200' : '1000' },
      draws: { type: 'string', default: quick ? '1' : '3' },
      ffn: { type: 'string', default: '1280' },
      'drop-layers': { type: 'string', default: '0' },
      method: { type: 'string', default: 'flap' },
    },
  });
  const missing = missingBanking77();
  if (missing !== undefined) throw new Error(missing);
  tensorflow({ threads: Number(process.env.TF_NUM_INTRAOP_THREADS ?? 2) });
  const checkpoint = await openModel((await resolveBase('smollm2-135m', { cacheDir: `${cacheFolder()}/models` })).path);
  const count = Number(values.units);
  const encode = (texts: readonly string[]): number[][] => texts.map(text => checkpoint.tokenizer.encode(text));
  const inquiries = encode(
    shuffled(banking77('train'), 7)
      .slice(0, count)
      .map(row => row.text),
  );
  const publicText = encode(PUBLIC_SENTENCES);
  const drop = Number(values['drop-layers']);
  const plan = {
    ...(values.ffn !== '0' && { ffn: Number(values.ffn) }),
    ...(drop > 0 && { dropLayers: drop }),
    method: values.method as 'flap',
  } satisfies PruneByTextPlan;
  const needed = neededOf(checkpoint.config, plan);
  const model = loadEngineModel(checkpoint);
  const asPublic = calibrationStatistics(model, inquiries);
  const sentences = calibrationStatistics(model, publicText);
  log('the public ways are calibrated');
  const request = { model, units: inquiries.map(tokens => [tokens]), publicText, ...needed };
  const norm = await publicNorm(request);
  const planAt = (noise: { epsilon: number } | { noiseMultiplier: number }) =>
    makePlan({
      ...{ units: count, expectedUnits: count, steps: 1, delta: DELTA, clip: { kind: 'flat', bound: 1 }, unit: 'user' },
      ...noise,
    });
  const sum = await clippedSum({ ...request, plan: planAt({ noiseMultiplier: 1 }) }, norm);
  log(`summed over ${count} units, public length ${norm.bound.toFixed(1)}`);
  model.dispose();
  const texts = heldOut();
  const rows: Row[] = [];
  const told = (what: string, statistics: CalibrationStatistics | undefined): void => {
    const pruned = statistics && pruneByText(checkpoint, () => loadEngineModel(checkpoint), [], plan, { statistics });
    const engine = loadEngineModel(pruned ?? checkpoint);
    const scores = scoreTokens(engine, encode(texts));
    engine.dispose();
    const found = perplexity(scores.map((s, i) => ({ ...s, bytes: Buffer.byteLength(texts[i]!) })));
    rows.push({
      what,
      value: found.perplexity!,
      unit: 'perplexity',
      detail: `+- ${found.perplexityError!.toFixed(1)}`,
    });
    log(`${what}: ${found.perplexity!.toFixed(1)}`);
  };
  told('whole model', undefined);
  told('calibrated on the inquiries as public text', asPublic);
  told('calibrated on public sentences', sentences);
  for (const epsilon of [...values.epsilons.split(',').map(Number), Number.POSITIVE_INFINITY])
    for (let draw = 0; draw < (epsilon === Number.POSITIVE_INFINITY ? 1 : Number(values.draws)); draw++) {
      const sigma =
        epsilon === Number.POSITIVE_INFINITY
          ? 1e-9
          : noiseMultiplier({ epsilon, delta: DELTA, sampleRate: 1, steps: 1, prior: [] });
      const own = planAt({ noiseMultiplier: sigma });
      const noise = own.noise(0, sum.length, 'calibration');
      const noised = Float64Array.from(sum, (v, i) => v + noise[i]!);
      const released = statisticsFrom(noised, norm, own, checkpoint.config.ffn);
      const named = epsilon === Number.POSITIVE_INFINITY ? 'clipped, no noise' : `epsilon ${epsilon}, draw ${draw + 1}`;
      told(`${named} (kept ${released.kept.toFixed(2)}, counted ${released.units})`, released);
    }
  return rows;
}
