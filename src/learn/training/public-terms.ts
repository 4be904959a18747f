/** Gradients of public text at the weights as they are: replay, divergence from the base, and log-probabilities to push down. */
import { lossBackward } from '../model/engine/backward.ts';
import { groupByLength, padBatch, scoredRows } from '../model/engine/batch.ts';
import { forwardTokens } from '../model/engine/forward.ts';
import type { EngineAdapter, EngineModel } from '../model/engine/model.ts';
import { disposeGradients, type Gradients, SumSink } from '../model/engine/sinks.ts';
import { type SoftTargets, softHead, teacherTargets } from '../model/engine/soft-head.ts';
import { clippedUnitGradients, type Example, meanGradient } from '../model/engine/units.ts';
import { type Tensor, tensorflow } from '../tensor/backend.ts';
import type { BesidePass } from './beside.ts';

export interface TermGradient {
  readonly gradients: Gradients;
  readonly value: number;
}

/** A public sequence and what the base says after each of its tokens. */
export interface Anchor {
  readonly tokens: readonly number[];
  readonly targets: SoftTargets;
}

/** Kept tokens a row: with 64 of SmolLM2's 49,152 the rest holds about a tenth of the mass on everyday text. */
export const KEPT = 64;

/**
 * The base's distributions on public sequences, computed once: k numbers a token are kept.
 * @param adapter The base's own, if it has one; a LoRA that is trained is left off, and the model is its own teacher.
 */
export function anchorsOf(
  model: EngineModel,
  sequences: readonly (readonly number[])[],
  options: { adapter?: EngineAdapter | undefined; tokenBias?: Tensor; k?: number; maxTokens?: number } = {},
): Anchor[] {
  const { adapter, tokenBias, maxTokens = 1024 } = options;
  const k = Math.min(options.k ?? KEPT, model.config.vocabSize);
  const anchors: (Anchor | undefined)[] = sequences.map(() => undefined);
  const useful = sequences.map((_, i) => i).filter(i => sequences[i]!.length > 1);
  for (const group of groupByLength(
    useful.map(i => sequences[i]!.length),
    maxTokens,
  )) {
    const members = group.map(g => useful[g]!);
    const batch = padBatch(
      members.map(i => sequences[i]!),
      model.config,
    );
    const scored = scoredRows(batch, () => 1);
    const hidden = forwardTokens(model, batch, { adapter });
    const all = teacherTargets(model, hidden, scored, k, { tokenBias });
    hidden.dispose();
    let at = 0;
    members.forEach((i, b) => {
      const rows = batch.lengths[b]! - 1;
      const [from, to] = [at * k, (at + rows) * k];
      at += rows;
      const targets = { k, tokens: all.tokens.slice(from, to), probabilities: all.probabilities.slice(from, to) };
      anchors[i] = { tokens: sequences[i]!, targets };
    });
  }
  return anchors.filter(anchor => anchor !== undefined);
}

const joinTargets = (anchors: readonly Anchor[]): SoftTargets => {
  const { k } = anchors[0]!.targets;
  const rows = anchors.reduce((sum, { targets }) => sum + targets.tokens.length, 0);
  const joined = { k, tokens: new Int32Array(rows), probabilities: new Float32Array(rows) };
  let at = 0;
  for (const { targets } of anchors) {
    joined.tokens.set(targets.tokens, at);
    joined.probabilities.set(targets.probabilities, at);
    at += targets.tokens.length;
  }
  return joined;
};

/** Mean KL(base || model) a token, nats; with its gradient when `sink` is asked for. */
async function divergence(
  { model, trainable, options }: BesidePass,
  anchors: readonly Anchor[],
  sink: SumSink | undefined,
): Promise<number> {
  const { adapter, from, vocabulary } = trainable;
  const { tokenBias, maxTokens, onMicrobatch } = options;
  const total = anchors.reduce((sum, { tokens }) => sum + tokens.length - 1, 0);
  let sum = 0;
  for (const group of groupByLength(
    anchors.map(anchor => anchor.tokens.length),
    maxTokens,
  )) {
    const members = group.map(i => anchors[i]!);
    const batch = padBatch(
      members.map(m => m.tokens),
      model.config,
    );
    const scored = scoredRows(batch, () => 1 / total);
    const head = softHead(joinTargets(members));
    if (sink === undefined) {
      const hidden = forwardTokens(model, batch, { adapter });
      for (const loss of head(model, hidden, scored, { tokenBias }).losses) sum += loss;
      hidden.dispose();
    } else
      for (const loss of lossBackward(model, batch, scored, sink, { adapter, from, vocabulary, tokenBias, head }))
        sum += loss;
    await onMicrobatch?.();
  }
  return sum / Math.max(1, total);
}

export const measureDivergence = (pass: BesidePass, anchors: readonly Anchor[]): Promise<number> =>
  divergence(pass, anchors, undefined);

export async function divergenceGradient(pass: BesidePass, anchors: readonly Anchor[]): Promise<TermGradient> {
  const sink = new SumSink(pass.trainable.keys);
  const value = await divergence(pass, anchors, sink);
  return { gradients: sink.gradients, value };
}

/** Gradient of the sum of the examples' log-probabilities: a step against it makes them less likely. */
export async function logProbabilityGradient(pass: BesidePass, examples: readonly Example[]): Promise<Gradients> {
  const { gradients } = await meanGradient(pass.model, examples, pass.trainable, {
    ...pass.options,
    tokenWeight: () => -1,
  });
  return gradients;
}

/**
 * Next-token gradient of public sequences on the scale of the training's own: under a plan each counts as a unit, clipped as one,
 * so that a share of 5% moves the weights as one public unit among nineteen others would.
 */
export async function replayGradient(
  { model, trainable, options, plan }: BesidePass,
  sequences: readonly (readonly number[])[],
): Promise<TermGradient> {
  const examples = sequences.map((tokens): Example => ({ tokens }));
  const result =
    plan === undefined
      ? await meanGradient(model, examples, trainable, options)
      : await clippedUnitGradients(
          model,
          examples.map(example => [example]),
          trainable,
          plan.clipFactor,
          options,
        );
  if (plan !== undefined) scale(result.gradients, 1 / Math.max(1, examples.length));
  return { gradients: result.gradients, value: result.nll / Math.max(1, result.tokens) };
}

/** In place. */
export function scale(gradients: Gradients, factor: number): void {
  const tf = tensorflow();
  for (const [key, gradient] of gradients) {
    gradients.set(
      key,
      tf.tidy(() => tf.keep(tf.mul(gradient, factor))),
    );
    gradient.dispose();
  }
}

/** into += factor * addition, which is disposed. */
export function addScaled(into: Gradients, addition: Gradients, factor: number): void {
  const tf = tensorflow();
  for (const [key, gradient] of into) {
    const more = addition.get(key);
    if (more === undefined) continue;
    into.set(
      key,
      tf.tidy(() => tf.keep(tf.add(gradient, tf.mul(more, factor)))),
    );
    gradient.dispose();
  }
  disposeGradients(addition);
}

/** L2 norm over all tensors. */
export function norm(gradients: ReadonlyMap<string, Tensor>): number {
  const tf = tensorflow();
  return Math.sqrt(tf.tidy(() => tf.addN([...gradients.values()].map(g => tf.sum(tf.square(g)))).dataSync()[0]!));
}
