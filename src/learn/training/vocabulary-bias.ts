import { invalid } from '../../base/errors.ts';
import { groupByLength, padBatch, scoredRows, type TokenBatch } from '../model/engine/batch.ts';
import { forwardTokens, runBlocks } from '../model/engine/forward.ts';
import { summedPredictions } from '../model/engine/head.ts';
import type { EngineAdapter, EngineModel } from '../model/engine/model.ts';
import { type Example, type HiddenCache, scoredTokens } from '../model/engine/units.ts';
import { type DpPlan, requireOneRelease } from '../privacy/index.ts';
import type { Tensor } from '../tensor/backend.ts';
import { tensorflow } from '../tensor/backend.ts';

/**
 * A bias on the vocabulary's logits from one release: how often each token occurs in the text, and how often the model
 * expected it. Each unit gives ONE vector [counts ; summed predictions ; mass ; presence], clipped by the plan; the vectors
 * are summed and noise is added once. Where a count or an expectation stands out of the noise, the token's bias is
 * log((count + k) / (expected + k)) against that of the rest of the vocabulary, which stays at 0.
 * On 1,000 inquiries at epsilon 8 this halves SmolLM2-135M's held-out perplexity; norm scales can be trained on top of it.
 */
export interface VocabularyBiasRequest {
  readonly model: EngineModel;
  readonly units: readonly (readonly Example[])[];
  /** One step at sample rate 1 (every unit, once). Without a plan: no clipping, no noise, public text only. */
  readonly plan?: DpPlan;
  readonly adapter?: EngineAdapter;
  /** [vocabSize], a bias released before: the model's predictions are made with it, and the new bias is to be added to it. */
  readonly tokenBias?: Float32Array;
  /**
   * Public text in tokens. Tokens that are frequent in it weigh less in a unit's vector: they would take most of the clipped norm
   * and stand out of the noise anyway. Without it, all weigh the same.
   */
  readonly publicText?: readonly (readonly number[])[];
  /** What enters block `from` is taken from here, so that the steps after this release do not compute it again. */
  readonly lower?: { readonly cache: HiddenCache; readonly from: number };
  /** Padded tokens a microbatch. Default 1024. */
  readonly maxTokens?: number;
  readonly onProgress?: (done: number, total: number) => void | Promise<void>;
}

/** [token id, what to add to its logit], by id. Tokens not named get nothing. */
export type VocabularyBias = [number, number][];

/** Everything here follows from the noised vector alone: it may be told. */
export interface VocabularyRelease {
  readonly bias: VocabularyBias;
  /** Units with something to count, as the noised vector counts them. Exact without a plan. */
  readonly units: number;
  /** Tokens with a bias that stood out of the noise, and how many must so that it is not noise that stands out. */
  readonly passed: number;
  readonly least: number;
}

/** Standard deviations of noise that a token must stand out by (3.0 let noise through at 1,000 units and epsilon 1). */
const THRESHOLD = 3.5;
const LARGEST = 6;
const SHRINKAGE = 1;
/**
 * The total mass is released, too, since the sum over 49,152 noisy entries is too noisy to serve as it. Its coordinate is
 * scaled down so that it takes little of the clipped norm: 1.5% for a text of 13 tokens.
 */
const MASS_SCALE = 0.05;
/** The share of a unit's norm that says "here": every unit adds the same, so their number is known to 1/share sigma (6 units at epsilon 8). */
const PRESENCE = 0.1;

/**
 * Share of public text above which a token's coordinates are scaled down, to the weight sqrt(FREQUENT / share): its expected part
 * of the squared norm is then that of a token at this share. The most frequent hundred tokens make half of a text.
 */
const FREQUENT = 5e-4;

/**
 * Expectations weigh more than counts: they are small and smooth (a quarter of the squared norm), and it is their noise that blurs
 * the ratio of a rare token. With both, 1,000 inquiries on which nothing else was tuned: perplexity 60.7 -> 56.9 at epsilon 8,
 * 73.0 -> 69.1 at 2.
 */
const EXPECTED = 1.5;

/** Weights of tokens [vocabSize], from public text and the model alone. */
function tokenWeights({ model, publicText, adapter }: VocabularyBiasRequest): Float64Array {
  const { vocabSize } = model.config;
  const weights = new Float64Array(vocabSize).fill(1);
  const texts = publicText?.filter(tokens => tokens.length > 1) ?? [];
  if (texts.length === 0) return weights;
  const share = new Float64Array(vocabSize);
  let rows = 0;
  for (const part of groupByLength(
    texts.map(t => t.length),
    1024,
  )) {
    const batch = padBatch(
      part.map(i => texts[i]!),
      model.config,
    );
    const scored = scoredRows(batch, () => 1);
    const hidden = forwardTokens(model, batch, { adapter });
    const found = summedPredictions(model, hidden, scored, new Int32Array(scored.rows.length), 1);
    hidden.dispose();
    for (let i = 0; i < vocabSize; i++) share[i]! += found[i]!;
    for (const label of scored.labels) share[label]! += 1;
    rows += scored.rows.length;
  }
  return weights.map((_, i) => Math.min(1, Math.sqrt((FREQUENT * 2 * rows) / share[i]!)));
}

/** The bias of `releaseVocabulary` alone. */
export const vocabularyBias = async (request: VocabularyBiasRequest): Promise<VocabularyBias> =>
  (await releaseVocabulary(request)).bias;

/** The clipped sum of the units' vectors, before any noise: a private quantity, which never leaves the process. */
export interface VocabularyCounts {
  readonly sum: Float64Array;
  readonly weights: Float64Array;
  readonly units: number;
}

/** @throws LearndError('invalid') when the plan is not one release over all units. */
export const releaseVocabulary = async (request: VocabularyBiasRequest): Promise<VocabularyRelease> =>
  releaseCounts(await countVocabulary(request), request.plan);

/** @throws LearndError('invalid') when the plan is not one release over all units. */
export async function countVocabulary(request: VocabularyBiasRequest): Promise<VocabularyCounts> {
  const { model, units, plan, tokenBias } = request;
  const { vocabSize } = model.config;
  checkPlan(plan, units.length);
  if (tokenBias !== undefined && tokenBias.length !== vocabSize)
    throw invalid('tokenBias', `the token bias has ${tokenBias.length} entries, the vocabulary ${vocabSize}`);
  const weights = tokenWeights(request);
  const sum = await releaseSum(request, weights);
  return { sum, weights, units: plan === undefined ? units.filter(hasText).length : units.length };
}

/** Adds the plan's noise to the counts, once, and reads the bias off them. */
export function releaseCounts(counts: VocabularyCounts, plan: DpPlan | undefined): VocabularyRelease {
  const { weights } = counts;
  const vocabSize = weights.length;
  checkPlan(plan, counts.units);
  const sum = Float64Array.from(counts.sum);
  let sigma = 0;
  if (plan !== undefined) {
    sigma = plan.noiseMultiplier * plan.sensitivity;
    const noise = plan.noise(0, sum.length, 'vocabulary');
    for (let i = 0; i < sum.length; i++) sum[i]! += noise[i]!;
  }
  const bias = biasFrom(sum, weights, sigma);
  const present = plan === undefined ? counts.units : sum[2 * vocabSize + 1]! / (PRESENCE * plan.sensitivity);
  return {
    bias,
    units: Math.max(0, Math.round(present)),
    passed: bias.length,
    least: leastPassed(vocabSize, sigma),
  };
}

function checkPlan(plan: DpPlan | undefined, units: number): void {
  if (plan !== undefined) requireOneRelease(plan, units, 'the vocabulary bias');
}

const hasText = (unit: readonly Example[]): boolean => unit.some(example => scoredTokens(example) > 0);

/**
 * How many tokens must pass before a release says more than noise would: of 2 vocabSize entries of pure noise, 2.3e-4 pass
 * 3.5 standard deviations, here with four standard deviations of that count, and ten to have something to say.
 */
function leastPassed(vocabSize: number, sigma: number): number {
  const byChance = sigma > 0 ? 2 * vocabSize * 2.33e-4 : 0;
  return Math.ceil(10 + byChance + 4 * Math.sqrt(byChance));
}

/** The clipped sum of the units' vectors [2 vocabSize + 2], without noise: a private quantity. */
async function releaseSum(request: VocabularyBiasRequest, weights: Float64Array): Promise<Float64Array> {
  const { model, units, plan, maxTokens = 1024, onProgress } = request;
  const { vocabSize } = model.config;
  const sum = new Float64Array(2 * vocabSize + 2);
  const useful = units.map(unit => unit.filter(example => scoredTokens(example) > 0));
  const order = useful.map((_, u) => u).filter(u => useful[u]!.length > 0);
  const bias = request.tokenBias === undefined ? undefined : tensorflow().tensor1d(request.tokenBias);
  for (let at = 0; at < order.length; ) {
    const group: number[] = [];
    let tokens = 0;
    while (at < order.length && (group.length === 0 || tokens < maxTokens)) {
      tokens += useful[order[at]!]!.reduce((n, e) => n + e.tokens.length, 0);
      group.push(order[at++]!);
    }
    const members = group.map(u => useful[u]!);
    const predictions = predictionsByUnit(request, members, maxTokens, bias);
    members.forEach((unit, i) => {
      addUnit(sum, unit, predictions.subarray(i * vocabSize, (i + 1) * vocabSize), weights, plan);
    });
    await onProgress?.(at, order.length);
  }
  bias?.dispose();
  return sum;
}

function predictionsByUnit(
  { model, adapter, lower }: VocabularyBiasRequest,
  units: readonly (readonly Example[])[],
  maxTokens: number,
  bias: Tensor | undefined,
): Float32Array {
  const flat = units.flatMap((unit, u) => unit.map(example => ({ example, u })));
  const total = new Float32Array(units.length * model.config.vocabSize);
  const lengths = flat.map(f => f.example.tokens.length);
  for (const part of groupByLength(lengths, maxTokens)) {
    const members = part.map(i => flat[i]!);
    const batch = padBatch(
      members.map(m => m.example.tokens),
      model.config,
    );
    const scored = scoredRows(
      batch,
      () => 1,
      members.map(m => m.example.mask),
    );
    const unitOfRow = scored.sequence.map(b => members[b]!.u);
    const hidden = lastHidden(
      model,
      batch,
      members.map(m => m.example),
      adapter,
      lower,
    );
    const found = summedPredictions(model, hidden, scored, unitOfRow, units.length, bias);
    hidden.dispose();
    for (let i = 0; i < total.length; i++) total[i]! += found[i]!;
  }
  return total;
}

function lastHidden(
  model: EngineModel,
  batch: TokenBatch,
  examples: readonly Example[],
  adapter: EngineAdapter | undefined,
  lower: VocabularyBiasRequest['lower'],
): Tensor {
  if (lower === undefined) return forwardTokens(model, batch, { adapter });
  const input = lower.cache.input(model, batch, examples, { from: lower.from, adapter });
  const hidden = runBlocks(model, input, batch, { from: lower.from, adapter });
  input.dispose();
  return hidden;
}

function addUnit(
  sum: Float64Array,
  unit: readonly Example[],
  predictions: Float32Array,
  weights: Float64Array,
  plan: DpPlan | undefined,
): void {
  const vocabSize = predictions.length;
  const counts = new Map<number, number>();
  let mass = 0;
  for (const { tokens, mask } of unit) {
    for (let t = 1; t < tokens.length; t++) {
      if (mask !== undefined && mask[t] !== true) continue;
      counts.set(tokens[t]!, (counts.get(tokens[t]!) ?? 0) + 1);
      mass += 1;
    }
  }
  let square = (MASS_SCALE * mass) ** 2;
  for (const [token, count] of counts) square += (weights[token]! * count) ** 2;
  for (let i = 0; i < vocabSize; i++) square += (EXPECTED * weights[i]! * predictions[i]!) ** 2;
  // Presence is this share of the whole norm, whatever the text: with it, the norm is norm / sqrt(1 - share^2).
  const norm = Math.sqrt(square / (1 - PRESENCE ** 2));
  const factor = plan === undefined ? 1 : plan.clipFactor(norm);
  if (factor === 0) return;
  for (const [token, count] of counts) sum[token]! += factor * weights[token]! * count;
  for (let i = 0; i < vocabSize; i++) sum[vocabSize + i]! += factor * EXPECTED * weights[i]! * predictions[i]!;
  sum[2 * vocabSize]! += factor * MASS_SCALE * mass;
  sum[2 * vocabSize + 1]! += factor * PRESENCE * norm;
}

/** Four digits after the point: what is trained on top of, stored and served is the same number. */
export const tidy = (bias: number): number => Math.round(bias * 1e4) / 1e4;

/**
 * Post-processing of the noisy sum. `sigma` is the noise's standard deviation (0 without privacy). What the noise alone could have
 * made of a token's count and expectation is taken off its bias by positive-part shrinkage, so that text which the model
 * expects as it is leaves it alone.
 */
function biasFrom(sum: Float64Array, weights: Float64Array, sigma: number): VocabularyBias {
  const vocabSize = weights.length;
  const mass = sum[2 * vocabSize]! / MASS_SCALE;
  const chosen: { token: number; count: number; expected: number; noise: number }[] = [];
  let restCounts = mass;
  let restExpected = mass;
  for (let token = 0; token < vocabSize; token++) {
    const weight = weights[token]!;
    const noise = sigma / weight;
    const count = sum[token]! / weight;
    const expected = sum[vocabSize + token]! / (EXPECTED * weight);
    const threshold = sigma > 0 ? THRESHOLD * noise : 0.5;
    if (count <= threshold && expected <= (sigma > 0 ? threshold / EXPECTED : threshold)) continue;
    restCounts -= count;
    restExpected -= expected;
    chosen.push({ token, count, expected, noise });
  }
  // What the chosen tokens leave of the mass: only its ratio matters, and noise must not turn it negative.
  const least = Math.max(0.3 * sigma + 0.05, 0.01 * Math.abs(mass));
  const rest = Math.max(least, restCounts) / Math.max(least, restExpected);
  return chosen.flatMap(({ token, count, expected, noise }): VocabularyBias => {
    const smoothing = 0.3 * noise + 0.05;
    const ratio = (Math.max(0, count) + smoothing) / (Math.max(0, expected) + smoothing);
    // Variance of the difference to a text without a bias, over its square.
    const doubt = (noise ** 2 * (1 + EXPECTED ** -2)) / Math.max(1e-12, (count - rest * expected) ** 2);
    const bias = Math.log(ratio / rest) * Math.max(0, 1 - SHRINKAGE * doubt);
    return bias === 0 ? [] : [[token, tidy(Math.max(-LARGEST, Math.min(LARGEST, bias)))]];
  });
}

/** As the engine's `tokenBias` wants it: [vocabSize]. */
export function denseBias(bias: VocabularyBias, vocabSize: number): Float32Array {
  const dense = new Float32Array(vocabSize);
  for (const [token, value] of bias) dense[token] = value;
  return dense;
}
