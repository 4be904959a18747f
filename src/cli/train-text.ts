import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { invalid, LearndError } from '../base/errors.ts';
import { EditedWeights, writeLoraGguf, writeModelGguf, writePeft } from '../learn/model/export.ts';
import { textChunk, writeAtomically } from '../learn/model/formats/atomic-file.ts';
import { type OpenedModel, openModel } from '../learn/model/open.ts';
import { epsilon, type Mechanism } from '../learn/privacy/index.ts';
import { checkMemory, memoryNeed } from '../learn/training/memory.ts';
import { checkVocabulary, checkWeights } from '../learn/training/preflight.ts';
import { destroySeal, partSeed, seal, statePath } from '../learn/training/seal.ts';
import { ensureNative } from './native.ts';
import { type Begun, peakRssMb, type Trained, type TrainJob } from './train-job.ts';
import { decide, type Plans, plansOf, type TextData } from './train-plan.ts';
import { interrupted, interrupts, progressLines } from './train-progress.ts';

/** Everything but heads: reads and checks it all, seals the seed, releases the histogram, takes the steps, writes, destroys the seed. */
export async function trainText(job: TrainJob): Promise<Trained> {
  const { options } = job;
  const checkpoint = await openModel(options.model);
  checkVocabulary(checkpoint);
  const sequence = options.sequence ?? Math.min(128, checkpoint.config.contextLength);
  if (sequence > checkpoint.config.contextLength)
    throw invalid(
      'sequence',
      `a sequence of ${sequence} tokens does not fit the model's context of ${checkpoint.config.contextLength}`,
    );
  const { readUnits } = await import('./train-units.ts');
  const data = await readUnits(options, checkpoint, sequence, partSeed(job.seed, 'augment'));
  const decision = decide(options, checkpoint.config, data);
  for (const line of decision.said) process.stderr.write(`${line}\n`);
  const isPrivate = options.epsilon !== 'none';
  const longest = data.units.reduce((most, unit) => unit.reduce((n, e) => Math.max(n, e.tokens.length), most), 1);
  const tokens = data.units.flat().reduce((sum, e) => sum + e.tokens.length, 0);
  checkMemory(
    memoryNeed(checkpoint.config, decision.method ?? { kind: 'histogram' }, {
      sequence: longest,
      maxTokens: Math.min(1024, tokens),
      isPrivate,
    }),
  );
  ensureNative();
  const { loadEngineModel } = await import('../learn/model/engine/model.ts');
  const model = loadEngineModel(checkpoint);
  const stop = interrupts('stopping here; Ctrl-C once more ends at once');
  try {
    checkWeights(model, options.model);
    const plans = plansOf(options, decision, data, job.seed, job.begun?.noise);
    if (job.begun === undefined) {
      const { data: dataSha, model: modelSha } = job;
      const request: Begun = { options, data: dataSha, model: modelSha, noise: plans.noise };
      await seal(job.folder, { seed: job.seed, request });
    }
    const trained = await work(job, { checkpoint, model, data, plans, signal: stop.signal });
    await destroySeal(job.folder);
    return trained;
  } catch (thrown) {
    throw stop.signal.aborted ? interrupted(options.out, thrown) : thrown;
  } finally {
    stop.end();
    model.dispose();
  }
}

interface Work {
  readonly checkpoint: OpenedModel;
  readonly model: import('../learn/model/engine/index.ts').EngineModel;
  readonly data: TextData;
  readonly plans: Plans;
  readonly signal: AbortSignal;
}

async function work(job: TrainJob, { checkpoint, model, data, plans, signal }: Work): Promise<Trained> {
  const { options } = job;
  const { out } = options;
  const started = performance.now();
  const { steps: stepPlan, method, public: unsealed } = plans;
  let bias: [number, number][] | undefined;
  if (plans.histogram !== undefined) {
    bias = await histogram(job, { model, data, plans, signal, checkpoint });
    await writeAtomically(join(out, 'logit-bias.json'), textChunk(JSON.stringify(bias)));
  }
  const { mechanisms: first } = plans;
  if (method === undefined) {
    const seconds = (performance.now() - started) / 1000;
    const tokens = data.units.flat().reduce((sum, e) => sum + e.tokens.length, 0);
    return {
      steps: 1,
      epsilon: first.length === 0 ? null : epsilon(first, plans.delta!),
      delta: plans.delta,
      noise_multiplier: first[0]?.noise_multiplier ?? null,
      loss: [],
      seconds_per_step: seconds,
      tokens_per_second: tokens / seconds,
      peak_rss_mb: peakRssMb(),
      out,
    };
  }
  const { denseBias, trainToEnd } = await import('../learn/training/index.ts');
  const maxSeconds = options.minutes === undefined ? undefined : options.minutes * 60;
  const say = progressLines({
    ...(stepPlan && { mechanisms: stepPlan.mechanisms, prior: first, delta: plans.delta!, target: plans.target! }),
    ...(maxSeconds !== undefined && { maxSeconds }),
  });
  const result = await trainToEnd(
    {
      model,
      method,
      units: data.units,
      ...(data.objective && { objective: data.objective }),
      ...(stepPlan ? { plan: stepPlan } : unsealed),
      ...(plans.optimizer && { optimizer: plans.optimizer }),
      ...(options.ema !== undefined && { ema: options.ema }),
      ...(bias && { tokenBias: denseBias(bias, model.config.vocabSize) }),
      ...(maxSeconds !== undefined && { maxSeconds }),
      seed: partSeed(job.seed, 'steps'),
      signal,
      checkpoint: {
        path: statePath(job.folder),
        losses: true,
        ...(options.checkpointEvery !== undefined && { everySteps: options.checkpointEvery }),
      },
      resume: job.begun !== undefined,
    },
    say,
  );
  if (result.steps === 0) throw new LearndError('invalid', 'no step has been taken yet: there is nothing to write');
  if (result.adapter) {
    await writeLoraGguf(result.adapter, checkpoint, join(out, 'adapter.gguf'));
    await writePeft(result.adapter, checkpoint, join(out, 'peft'));
  } else {
    const parts = { ...checkpoint, weights: EditedWeights.overlay(checkpoint.weights, result.weights!) };
    const source = 'architecture' in checkpoint ? checkpoint : undefined;
    await writeModelGguf(parts, join(out, 'model.gguf'), { type: source ? 'keep' : 'f32', ...(source && { source }) });
  }
  const released: Mechanism[] = [...first, ...(stepPlan?.mechanisms ?? []).map(m => ({ ...m, steps: result.steps }))];
  return {
    steps: result.steps,
    epsilon: released.length === 0 ? null : epsilon(released, plans.delta!),
    delta: plans.delta,
    noise_multiplier: stepPlan?.noiseMultiplier ?? null,
    loss: result.losses.map(loss => loss ?? null),
    seconds_per_step: result.seconds / result.steps,
    tokens_per_second: result.tokensPerSecond,
    peak_rss_mb: peakRssMb(),
    out,
  };
}

/** The release itself is kept beside the seed: going on with the training must not release a second one. */
async function histogram(job: TrainJob, { model, data, plans, signal, checkpoint }: Work): Promise<[number, number][]> {
  const kept = join(job.folder, 'logit-bias.json');
  if (existsSync(kept)) return JSON.parse(readFileSync(kept, 'utf8')) as [number, number][];
  const { vocabularyBias } = await import('../learn/training/index.ts');
  const { PUBLIC_SENTENCES } = await import('../learn/training/public-text.ts');
  let said = 0;
  const bias = await vocabularyBias({
    model,
    units: data.plain ?? data.units,
    ...(plans.histogram === 'public' ? {} : { plan: plans.histogram! }),
    publicText: PUBLIC_SENTENCES.map(text => checkpoint.tokenizer.encode(text)),
    onProgress: async (done, total) => {
      await new Promise(resolve => setImmediate(resolve));
      if (signal.aborted) throw new LearndError('canceled', 'before the histogram was released');
      if (performance.now() - said < 1000 && done < total) return;
      said = performance.now();
      process.stderr.write(`histogram: ${done} of ${total} units\n`);
    },
  });
  if (bias.length === 0)
    process.stderr.write('histogram: no token stands out of the noise; the bias is empty and changes nothing\n');
  await writeAtomically(kept, textChunk(JSON.stringify(bias)), 0o600);
  return bias;
}
