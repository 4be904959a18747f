import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { invalid, LearndError, laterVersion } from '../base/errors.ts';
import { EditedWeights, writeLoraGguf, writeModelGguf, writePeft } from '../learn/model/export.ts';
import { type OpenedModel, openModel } from '../learn/model/open.ts';
import { type DpPlan, epsilon, makePlan } from '../learn/privacy/index.ts';
import { modelPath } from './model-path.ts';
import { ensureNative } from './native.ts';
import { readTrainRows, type TrainRow } from './train-data.ts';

export interface TrainOptions {
  readonly model: string;
  readonly file: string;
  readonly method: 'auto' | 'full' | 'lora' | 'norms' | 'bias' | 'head';
  readonly epsilon: string;
  readonly delta?: number;
  readonly steps?: number;
  readonly batch?: number;
  readonly sequence?: number;
  readonly user?: string;
  readonly text?: string;
  readonly label?: string;
  readonly minutes?: number;
  readonly out?: string;
}

export interface Trained {
  readonly steps: number;
  /** null: trained without noise. */
  readonly epsilon: number | null;
  readonly delta: number | null;
  readonly noise_multiplier: number | null;
  readonly loss: readonly (number | null)[];
  readonly seconds_per_step: number;
  readonly tokens_per_second: number;
  readonly peak_rss_mb: number;
  readonly out: string;
}

const NORM_LAYERS = 6;
const LORA_RANK = 8;

/** Everything that can be wrong with the request is said before any privacy is spent. */
function planFor(options: TrainOptions, units: number, steps: number, batch: number): DpPlan | undefined {
  if (options.epsilon === 'none') return undefined;
  const target = Number(options.epsilon);
  if (!(target > 0) || !Number.isFinite(target))
    throw invalid('epsilon', `epsilon must be a number above 0, or none; it is "${options.epsilon}"`);
  const delta = options.delta ?? 1e-6;
  if (!(delta > 0 && delta < 1)) throw invalid('delta', `delta must lie between 0 and 1; it is ${delta}`);
  if (delta >= 1 / units) {
    process.stderr.write(
      `warning: delta ${delta} is not below 1 / ${units} units: with it, the data of one unit may be released outright\n`,
    );
  }
  const expectedUnits = Math.max(units, batch);
  return makePlan({
    units,
    // Outside the daemon the number of units is the caller's to publish: the file is theirs, and so is the result.
    expectedUnits,
    sampleRate: Math.min(1, batch / expectedUnits),
    steps,
    epsilon: target,
    delta,
    clip: { kind: 'auto-s' },
    unit: options.user === undefined ? 'example' : 'user',
  });
}

export async function run(options: TrainOptions): Promise<Trained> {
  if (options.method === 'bias') throw laterVersion('train --method bias');
  if (options.method === 'head') throw laterVersion('train --method head outside the daemon');
  for (const name of ['steps', 'batch', 'sequence'] as const) {
    const value = options[name];
    if (value !== undefined && value < (name === 'sequence' ? 2 : 1))
      throw invalid(name, `${name} must be at least ${name === 'sequence' ? 2 : 1}`);
  }
  const rows = readTrainRows(options.file, options);
  const checkpoint = await openModel(await modelPath(options.model));
  const sequence = options.sequence ?? 128;
  if (sequence > checkpoint.config.contextLength) {
    throw invalid(
      'sequence',
      `a sequence of ${sequence} tokens does not fit the model's context of ${checkpoint.config.contextLength}`,
    );
  }
  ensureNative();
  return trainOn(checkpoint, rows, sequence, options);
}

async function trainOn(
  checkpoint: OpenedModel,
  rows: readonly TrainRow[],
  sequence: number,
  options: TrainOptions,
): Promise<Trained> {
  const { loadEngineModel } = await import('../learn/model/engine/model.ts');
  const { train, unitExamples } = await import('../learn/training/index.ts');
  const byUnit = new Map<string, number[][]>();
  for (const { unit, text } of rows) byUnit.set(unit, [...(byUnit.get(unit) ?? []), checkpoint.tokenizer.encode(text)]);
  const units = [...byUnit.values()]
    .map(documents => unitExamples(documents, sequence))
    .filter(examples => examples.length > 0);
  if (units.length === 0) throw invalid('file', `${options.file} holds no text of two tokens or more`);
  const kind = options.method === 'auto' ? (options.epsilon === 'none' ? 'lora' : 'norms') : options.method;
  const examples = units.reduce((sum, unit) => sum + unit.length, 0);
  const isPrivate = options.epsilon !== 'none';
  const batch = options.batch ?? (isPrivate ? Math.min(512, units.length) : Math.min(32, examples));
  const steps = options.steps ?? (isPrivate ? 10 : Math.min(400, Math.max(30, Math.ceil((3 * examples) / batch))));
  const plan = planFor(options, units.length, steps, batch);
  const method =
    kind === 'norms'
      ? ({ kind, layers: Math.min(NORM_LAYERS, checkpoint.config.layers) } as const)
      : kind === 'lora'
        ? ({ kind, rank: LORA_RANK } as const)
        : ({ kind: 'full' } as const);
  const stop = new AbortController();
  const interrupt = () => stop.abort();
  process.once('SIGINT', interrupt);
  const model = loadEngineModel(checkpoint);
  try {
    const loop = train({
      model,
      method,
      units,
      ...(plan === undefined ? { steps, batch } : { plan }),
      ...(options.minutes === undefined ? {} : { maxSeconds: options.minutes * 60 }),
    });
    let next = await loop.next();
    while (!next.done) {
      const p = next.value;
      const left = (p.secondsElapsed / p.step) * (p.steps - p.step);
      process.stderr.write(
        `step ${p.step}/${p.steps}  loss ${p.loss?.toFixed(4) ?? '-'}  ${Math.round(p.tokensPerSecond)} tokens/s  ${Math.round(left)} s left\n`,
      );
      if (stop.signal.aborted) throw new LearndError('canceled', `interrupted after step ${p.step}`);
      next = await loop.next();
    }
    const result = next.value;
    const out = options.out ?? 'trained';
    mkdirSync(out, { recursive: true });
    if (result.adapter) {
      await writeLoraGguf(result.adapter, checkpoint, join(out, 'adapter.gguf'));
      await writePeft(result.adapter, checkpoint, join(out, 'peft'));
    } else {
      const parts = { ...checkpoint, weights: EditedWeights.overlay(checkpoint.weights, result.weights!) };
      const source = 'architecture' in checkpoint ? checkpoint : undefined;
      await writeModelGguf(parts, join(out, 'model.gguf'), {
        type: source ? 'keep' : 'f32',
        ...(source && { source }),
      });
    }
    const spent = plan === undefined ? null : epsilon([{ ...plan.mechanisms[0]!, steps: result.steps }], plan.delta);
    return {
      steps: result.steps,
      epsilon: spent,
      delta: plan?.delta ?? null,
      noise_multiplier: plan?.noiseMultiplier ?? null,
      loss: result.losses.map(loss => loss ?? null),
      seconds_per_step: result.seconds / result.steps,
      tokens_per_second: result.tokensPerSecond,
      peak_rss_mb: Math.round(process.resourceUsage().maxRSS / 1024),
      out,
    };
  } finally {
    process.removeListener('SIGINT', interrupt);
    model.dispose();
  }
}
