import { existsSync } from 'node:fs';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { invalid, LearndError } from '../../base/errors.ts';
import { disposeGradients } from '../model/engine/sinks.ts';
import { HiddenCache, type PassOptions } from '../model/engine/units.ts';
import { SecureStream, streamFor } from '../privacy/index.ts';
import { tensorflow } from '../tensor/backend.ts';
import { RunningAverage } from './average.ts';
import type { BesidePass } from './beside.ts';
import {
  CheckpointClock,
  fingerprintOf,
  type Resumable,
  readState,
  removeState,
  restoreState,
  saveState,
} from './checkpoint.ts';
import { createOptimizer, type OptimizerSettings, scheduleRate } from './optimizer.ts';
import type { TrainProgress, TrainRequest, TrainResult } from './request.ts';
import { minibatchesOf, prepareObjective, privateStep, publicStep } from './steps.ts';
import { type Method, prepareTraining } from './trainables.ts';

export type { TrainProgress, TrainRequest, TrainResult } from './request.ts';

/**
 * Settings that worked, on SmolLM2-135M (hidden 576) and 1,000 inquiries (base perplexity 116 on held-out ones):
 * private norm scales, Adam(.9, .99) at .02, 8 steps of 500 units, epsilon 8: 71; LoRA of rank 8 without privacy, 2e-3, 20 steps
 * of 24: 27. Rates of matrices fall with the width, as a wider layer adds up more of them.
 */
export function defaultOptimizer(method: Method, isPrivate: boolean, hidden: number): OptimizerSettings {
  const betas: [number, number] = [0.9, 0.99];
  if (method.kind === 'norms' || method.kind === 'bias') return { kind: 'adam', learningRate: 0.02, betas };
  if (method.kind === 'lora') return { kind: 'adam', learningRate: Math.min(0.01, 1.15 / hidden), betas };
  return { kind: 'adam', learningRate: Math.min(1e-3, 0.03 / hidden), betas, weightDecay: isPrivate ? 0 : 0.01 };
}

/**
 * Trains, yielding after every step; the caller prints, stores, or stops (by leaving the loop, or by `signal`).
 * @throws LearndError('canceled') by the signal, the state before the step being saved where there is a checkpoint; 'invalid' for
 *   settings; 'conflict' for a checkpoint of another training; 'internal' when nothing was learned or a loss is not finite.
 */
export async function* train(request: TrainRequest): AsyncGenerator<TrainProgress, TrainResult> {
  const { model, method, plan, checkpoint } = request;
  checkRequest(request);
  const stream = request.seed === undefined ? new SecureStream() : streamFor(request.seed, 'training');
  const settings = request.optimizer ?? defaultOptimizer(method, plan !== undefined, model.config.hidden);
  const optimizer = createOptimizer(settings);
  const training = prepareTraining(model, method, stream, request.adapter);
  const tokenBias = request.tokenBias === undefined ? undefined : tensorflow().tensor1d(request.tokenBias);
  const average = request.ema === undefined ? undefined : new RunningAverage(request.ema);
  const { parameters } = training;
  const resumable: Resumable = { parameters, optimizer, average };
  const steps = plan?.steps ?? request.steps!;
  const fingerprint = checkpoint && trainingFingerprint(request, settings);
  const losses: (number | undefined)[] = [];
  let step = 0;
  let saved = -1;
  let totalTokens = 0;
  let secondsBefore = 0;
  let stepSeconds = 0;
  let started = performance.now();
  const elapsed = () => secondsBefore + (performance.now() - started) / 1000;
  const late = () => request.maxSeconds !== undefined && elapsed() >= request.maxSeconds;
  const save = async () => {
    if (checkpoint === undefined || step === saved) return;
    const kept = plan === undefined || checkpoint.losses === true ? losses : [];
    const released = plan?.mechanisms.map(mechanism => ({ ...mechanism, steps: step })) ?? [];
    const beside = request.beside?.state() ?? [];
    const bound = plan?.state();
    const at = { step, seconds: elapsed(), stepSeconds, tokens: totalTokens };
    const state = { ...at, losses: kept, released, beside, ...(bound && { plan: bound }) };
    await saveState(checkpoint.path, resumable, { ...state, fingerprint: fingerprint! });
    saved = step;
    await checkpoint.onSaved?.(step);
  };
  try {
    const minibatches = plan === undefined ? minibatchesOf(request, stream) : undefined;
    const options: PassOptions = {
      maxTokens: request.maxTokens ?? MICROBATCH_TOKENS,
      cache: request.cache ?? cacheFor(request, training.trainable.from, steps),
      tokenBias,
      ...(request.head && { head: request.head.pass }),
      onMicrobatch: async () => {
        await nextTurn();
        if (request.signal?.aborted)
          throw new LearndError('canceled', `the training was canceled after ${step} of ${steps} steps`, {
            retriable: false,
          });
      },
    };
    // The cache is for the training's own examples.
    const { cache: _, ...plain } = options;
    const beside: BesidePass = { model, trainable: training.trainable, parameters, options: plain, plan };
    await prepareObjective(request, training, options);
    await request.beside?.begin(beside);
    if (checkpoint !== undefined && request.resume === 'same' && existsSync(checkpoint.path)) {
      if (readState(checkpoint.path).fingerprint !== fingerprint) await removeState(checkpoint.path);
    }
    if (checkpoint !== undefined && request.resume && existsSync(checkpoint.path)) {
      const state = restoreState(checkpoint.path, resumable, fingerprint!);
      ({ step, stepSeconds, tokens: totalTokens, seconds: secondsBefore } = state);
      losses.push(...state.losses);
      request.beside?.restore(state.beside ?? []);
      plan?.restore(state.plan);
      saved = step;
      for (let i = 0; i < step; i++) minibatches?.next();
      started = performance.now();
    }
    const clock = checkpoint && new CheckpointClock(checkpoint, step, elapsed());
    const first = step;
    let lastChange = 0;
    while (step < steps && !(step > 0 && late())) {
      const before = elapsed();
      const { gradients, ...measured } =
        plan === undefined
          ? await publicStep(request, training, minibatches!, step, options)
          : await privateStep(request, training, plan, step, options);
      const { kind = 'constant', warmup, floor } = request.schedule ?? {};
      const rate = scheduleRate(kind, step, steps, warmup, floor);
      const measure = step === first || step === steps - 1 || late();
      const change = optimizer.step(parameters, gradients, rate, measure);
      disposeGradients(gradients);
      if (change !== undefined) lastChange = checkChange(change, step);
      average?.add(parameters);
      losses.push(measured.loss);
      totalTokens += measured.tokens;
      step += 1;
      const took = elapsed() - before;
      stepSeconds += took;
      if (clock?.due(step, elapsed()) && step < steps) {
        const from = elapsed();
        await save();
        clock.saved(step, from, elapsed());
      }
      yield {
        step,
        steps,
        ...measured,
        secondsElapsed: elapsed(),
        tokensPerSecond: measured.tokens / Math.max(1e-9, took),
      };
    }
    average?.moveInto(parameters);
    await request.beside?.end(beside);
    return {
      ...training.result(),
      ...{ steps: step, losses, seconds: stepSeconds, lastChange },
      tokensPerSecond: totalTokens / Math.max(1e-9, stepSeconds),
      outOfTime: step < steps,
    };
  } catch (thrown) {
    if (request.signal?.aborted) await save();
    throw thrown;
  } finally {
    optimizer.dispose();
    average?.dispose();
    tokenBias?.dispose();
    training.dispose();
  }
}

const MICROBATCH_TOKENS = 1024;

/** Worth its place where an example is seen more than once; which examples it holds depends on nothing that a restart changes. */
function cacheFor(request: TrainRequest, from: number, steps: number): HiddenCache | undefined {
  if (from === 0) return undefined;
  const examples = request.units.flat();
  const drawn =
    request.plan === undefined ? (steps * request.batch!) / examples.length : steps * request.plan.sampleRate;
  if (drawn < 1.5) return undefined;
  const { hidden } = request.model.config;
  return new HiddenCache(request.cacheBytes ?? 2 ** 30, examples, hidden, request.maxTokens ?? MICROBATCH_TOKENS);
}

/** Of everything that decides what a step does: method, optimizer, plan, seed, data, and the model by a small part of it. */
function trainingFingerprint(request: TrainRequest, optimizer: OptimizerSettings): string {
  const { method, plan, schedule, units, model, tokenBias, ema, steps, batch } = request;
  const { unit, sampleRate, clip, noiseMultiplier, divisor, delta } = plan ?? {};
  const noise = plan && {
    unit,
    units: plan.units,
    sampleRate,
    steps: plan.steps,
    clip,
    noiseMultiplier,
    divisor,
    delta,
  };
  const maxTokens = request.maxTokens ?? MICROBATCH_TOKENS;
  const terms = { objective: request.objective?.name, beside: request.beside?.name, head: request.head?.name };
  const settings = { method, optimizer, schedule, noise, steps, batch, maxTokens, ema, terms, config: model.config };
  const examples = units.flatMap(of => [
    -1,
    ...of.flatMap(({ tokens, mask, targets, segments, bidirectional }) => [
      -2,
      ...tokens.map((token, t) => (mask?.[t] === false ? -3 - token : token)),
      ...(targets ? [-1, ...targets] : []),
      ...(segments ? [bidirectional === true ? -1 : -2, ...segments] : []),
    ]),
  ]);
  return fingerprintOf(
    JSON.stringify(settings),
    // Without the key a digest of 32 random bytes says nothing about them.
    request.seed!,
    Int32Array.from(examples),
    model.parameter('model.norm.weight').dataSync() as Float32Array,
    tokenBias ?? new Float32Array(0),
  );
}

/** Runs a training to its end. */
export async function trainToEnd(
  request: TrainRequest,
  onProgress?: (progress: TrainProgress) => void,
): Promise<TrainResult> {
  const steps = train(request);
  for (;;) {
    const next = await steps.next();
    if (next.done) return next.value;
    onProgress?.(next.value);
  }
}

/** A training that moves nothing has happened to others unnoticed (frozen parameters in the optimizer); here it is an error. */
function checkChange(change: number, step: number): number {
  if (Number.isFinite(change) && change > 0) return change;
  throw new LearndError(
    'internal',
    `step ${step + 1} changed the weights by ${change}: nothing was learned, or the weights are lost`,
  );
}

function checkRequest({
  plan,
  steps,
  batch,
  units,
  model,
  tokenBias,
  checkpoint,
  seed,
  head,
  rewrite,
}: TrainRequest): void {
  if (checkpoint !== undefined && seed === undefined)
    throw invalid('seed', 'a training with a checkpoint needs the seed from which its steps can be replayed');
  if (tokenBias !== undefined && tokenBias.length !== model.config.vocabSize)
    throw invalid(
      'tokenBias',
      `the token bias has ${tokenBias.length} entries, the vocabulary ${model.config.vocabSize}`,
    );
  if (plan !== undefined) {
    if (head !== undefined || rewrite !== undefined)
      throw invalid('head', 'distillation is on public text, without a plan: the teacher may be private');
    if (plan.units !== units.length)
      throw invalid('units', `the plan was made for ${plan.units} units, the training has ${units.length}`);
    return;
  }
  if (!Number.isInteger(steps) || steps! < 1)
    throw invalid('steps', `steps must be a whole number of at least 1, not ${steps}`);
  if (!Number.isInteger(batch) || batch! < 1)
    throw invalid('batch', `batch must be a whole number of at least 1, not ${batch}`);
}
