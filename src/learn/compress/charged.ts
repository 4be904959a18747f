import { invalid } from '../../base/errors.ts';
import type { EngineModel } from '../model/engine/index.ts';
import { type DpPlan, requireOneRelease } from '../privacy/index.ts';
import { PublicSpan } from './public-span.ts';
import type { CalibrationStatistics } from './statistics.ts';
import { type Channel, eachUnit, type UnitStatistics } from './unit-statistics.ts';

/**
 * Calibration on private text as one release. Each unit gives ONE vector: how its own statistics differ from those of public text, in
 * units of the public ones, divided by a public length and clipped to norm 1, beside two coordinates that say that it is there. The vectors
 * are summed, noise is added once, and everything that pruning then uses (scores, influence, the means of the bias compensation)
 * follows from that sum and from public text.
 */
export interface ChargedRequest {
  readonly model: EngineModel;
  /** Each unit's sequences in tokens. */
  readonly units: readonly (readonly (readonly number[])[])[];
  /** Public text in tokens, some hundred sequences: what the statistics are measured against. */
  readonly publicText: readonly (readonly number[])[];
  /** One step at sample rate 1 (every unit, once), with a flat clip at 1. */
  readonly plan: DpPlan;
  /** What will be needed: what is not asked for takes none of the clipped norm. */
  readonly channels: readonly Channel[];
  readonly influence: boolean;
  readonly maxTokens?: number;
  readonly onProgress?: (done: number, total: number) => void | Promise<void>;
}

/** All of it follows from the noised sum and public text: it may be told. */
export interface ReleasedStatistics extends CalibrationStatistics {
  /** Units, as the noised sum counts them. */
  readonly units: number;
  /** Share of the noised sum's squared differences that is left: 0 none, so that the statistics are those of public text, to 1. */
  readonly kept: number;
}

/**
 * Share of a unit's norm that says "here", and of the one that says by how much its differences were clipped: the sum of these factors
 * is what the sum of the clipped differences is to be divided by.
 */
const PRESENCE = 0.1;
/** So many deviations of its noise that sum must have to be divided by; else the expected units are what the mean is over. */
const CERTAIN = 4;
/** No coordinate differs by more than this many public scales: a few neurons with rare large activations would take the whole norm. */
const LARGEST = 3;
/** Of its layer's mean scale: what is never active on public text would differ without bound. */
const LEAST_SCALE = 0.1;
/** Squared norm of all layers' influences beside that of the neurons: they are few, and little noise on them costs the others nothing. */
const INFLUENCE_SHARE = 0.1;

/** Public constants that a unit's vector is made with. */
export interface PublicNorm {
  readonly channels: readonly Channel[];
  readonly influence: boolean;
  /** Mean and scale of each coordinate, in the vector's order: channels, then layers' influences. */
  readonly center: Float64Array;
  readonly scale: Float64Array;
  /** E x^2 of each neuron, for the variances. [layers][ffn] */
  readonly squares: readonly Float64Array[];
  /** Differences are divided by it: the median norm of public texts' own differences. */
  readonly bound: number;
  readonly public: Readonly<Record<Channel, readonly Float64Array[]>>;
  readonly publicInfluence: Float64Array;
  /** Of public texts' differences; undefined where there are not many more coordinates than texts. */
  readonly span: PublicSpan | undefined;
}

/** Texts that make the span: 300 KB each of SmolLM2-135M. */
const MOST_ROWS = 256;
/** Coordinates for each of them, at least. */
const LEAST_WIDTH = 8;

const ALL: readonly Channel[] = ['mean', 'rms', 'meanAbs'];

/** From public text alone, each text as a unit of its own. */
export async function publicNorm({
  model,
  publicText,
  channels,
  influence,
  maxTokens,
}: Pick<ChargedRequest, 'model' | 'publicText' | 'channels' | 'influence' | 'maxTokens'>): Promise<PublicNorm> {
  const texts = publicText.filter(tokens => tokens.length > 0).map(tokens => [tokens]);
  if (texts.length < 2)
    throw invalid('publicText', 'private calibration is measured against at least two public texts');
  if (channels.length === 0 && !influence) throw invalid('channels', 'nothing to calibrate');
  const { ffn, layers } = model.config;
  const zeros = () => ffn.map(width => new Float64Array(width));
  const means = { mean: zeros(), rms: zeros(), meanAbs: zeros() };
  const squares = zeros();
  const influences: Float32Array[] = [];
  const pass = { channels: ALL, ...(maxTokens !== undefined && { maxTokens }) };
  await eachUnit(model, texts, pass, (_, found) => {
    for (const channel of ALL)
      for (const [layer, values] of found.channels[channel]!.entries())
        for (let j = 0; j < values.length; j++) means[channel][layer]![j]! += values[j]! / texts.length;
    for (const [layer, values] of found.channels.rms!.entries())
      for (let j = 0; j < values.length; j++) squares[layer]![j]! += values[j]! ** 2 / texts.length;
    influences.push(found.influence);
  });
  const publicInfluence = Float64Array.from({ length: layers }, (_, l) => average(influences.map(row => row[l]!)));
  const spread = Float64Array.from({ length: layers }, (_, l) =>
    Math.sqrt(average(influences.map(row => (row[l]! - publicInfluence[l]!) ** 2)) + 1e-12),
  );
  const center = [...channels.flatMap(channel => means[channel].flatMap(row => [...row]))];
  const scale = [
    ...channels.flatMap(channel =>
      // A mean is small beside what it is the mean of.
      (channel === 'meanAbs' ? means.meanAbs : means.rms).flatMap(row => {
        const least = LEAST_SCALE * average(row) + 1e-12;
        return Array.from(row, value => Math.max(value, least));
      }),
    ),
  ];
  const norm = {
    ...{ channels, influence, squares, public: means, publicInfluence },
    center: Float64Array.from(influence ? [...center, ...publicInfluence] : center),
    scale: Float64Array.from(influence ? [...scale, ...spread] : scale),
  };
  // Two looks at the same text: the lengths are known only once center and scale are.
  const lengths: { neurons: number; layers: number }[] = [];
  const neurons = center.length;
  const rows: Float32Array[] = [];
  await eachUnit(model, texts, { ...pass, channels }, (_, found) => {
    const x = differences(found, { ...norm, bound: 1 });
    const square = (from: number, to: number) => x.subarray(from, to).reduce((sum, v) => sum + v * v, 0);
    lengths.push({ neurons: square(0, neurons), layers: square(neurons, x.length) });
    if (rows.length < MOST_ROWS) rows.push(Float32Array.from(x));
  });
  const weight =
    neurons === 0
      ? 1
      : Math.sqrt(
          (INFLUENCE_SHARE * average(lengths.map(l => l.neurons))) /
            Math.max(1e-12, average(lengths.map(l => l.layers))),
        );
  for (let i = neurons; i < norm.scale.length; i++) norm.scale[i]! /= weight;
  for (const row of rows) for (let i = neurons; i < row.length; i++) row[i]! *= weight;
  const norms = lengths.map(l => Math.sqrt(l.neurons + weight ** 2 * l.layers)).sort((a, b) => a - b);
  const span = LEAST_WIDTH * rows.length <= norm.center.length ? new PublicSpan(rows) : undefined;
  return { ...norm, span, bound: Math.max(1e-9, norms[Math.floor(norms.length / 2)]!) };
}

const squared = (values: Float64Array): number => values.reduce((sum, v) => sum + v * v, 0);

const average = (values: ArrayLike<number>): number => {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i]!;
  return sum / values.length;
};

/** A unit's statistics less the public ones, over their scale and the public length. */
function differences(
  { channels, influence }: UnitStatistics,
  norm: Pick<PublicNorm, 'channels' | 'center' | 'scale' | 'bound' | 'influence'>,
): Float64Array {
  const { center, scale, bound } = norm;
  const out = new Float64Array(center.length);
  let at = 0;
  const add = (values: Float32Array, most: number): void => {
    for (let j = 0; j < values.length; j++, at++) {
      const x = (values[j]! - center[at]!) / scale[at]!;
      out[at] = Math.max(-most, Math.min(most, x)) / bound;
    }
  };
  for (const channel of norm.channels) for (const row of channels[channel]!) add(row, LARGEST);
  if (norm.influence) add(influence, Number.POSITIVE_INFINITY);
  return out;
}

/** A unit's vector [differences ; presence ; clipping factor], of norm at most 1; zeros where a statistic is not finite. */
export function unitVector(statistics: UnitStatistics, norm: PublicNorm): Float64Array {
  const x = differences(statistics, norm);
  const out = new Float64Array(x.length + 2);
  const length = Math.sqrt(x.reduce((sum, v) => sum + v * v, 0));
  if (!Number.isFinite(length)) return out;
  const factor = Math.min(1, Math.sqrt(1 - 2 * PRESENCE ** 2) / Math.max(length, 1e-12));
  for (let i = 0; i < x.length; i++) out[i] = factor * x[i]!;
  out[x.length] = PRESENCE;
  out[x.length + 1] = PRESENCE * factor;
  return out;
}

/** The sum of the units' vectors, before any noise: a private quantity, which never leaves the process. */
export async function clippedSum(request: ChargedRequest, norm: PublicNorm): Promise<Float64Array> {
  const { model, units, plan, channels, maxTokens, onProgress } = request;
  const sum = new Float64Array(norm.center.length + 2);
  const pass = {
    channels,
    ...(maxTokens !== undefined && { maxTokens }),
    ...(onProgress !== undefined && { onProgress }),
  };
  await eachUnit(model, units, pass, (_, found) => {
    const vector = unitVector(found, norm);
    const factor = plan.clipFactor(Math.sqrt(vector.reduce((total, v) => total + v * v, 0)));
    for (let i = 0; i < sum.length; i++) sum[i]! += factor * vector[i]!;
  });
  return sum;
}

/**
 * Statistics of private text under the plan's noise. A plan makes one release: asked again it refuses.
 * @throws LearndError('invalid') when the plan is not one step over all units with a flat clip at 1
 */
export async function chargedStatistics(request: ChargedRequest): Promise<ReleasedStatistics> {
  const { plan, units } = request;
  requireOneRelease(plan, units.length, 'calibration');
  if (plan.clip.kind !== 'flat' || plan.sensitivity !== 1)
    throw invalid('plan.clip', 'the vectors of calibration have a norm of at most 1: a flat clip at 1');
  const norm = await publicNorm(request);
  const sum = await clippedSum(request, norm);
  const noise = plan.noise(0, sum.length, 'calibration');
  for (let i = 0; i < sum.length; i++) sum[i]! += noise[i]!;
  return statisticsFrom(sum, norm, plan, request.model.config.ffn);
}

/**
 * Post-processing of the noised sum. The mean difference is weighted by the units' clipping factors, whose sum was released with it; where
 * that sum is lost in its noise, it is over the expected units, a public constant. What the noise alone could have made is taken off by
 * positive-part James-Stein shrinkage towards public text: of the part along the directions in which public texts differ, where there is
 * little noise, and of the rest, layer by layer. 1,000 inquiries: 70% of the squared difference lies along them, and the squared error
 * falls from .25 of it to .16 at epsilon 8, from .77 to .29 at 2.
 */
export function statisticsFrom(
  sum: Float64Array,
  norm: PublicNorm,
  plan: Pick<DpPlan, 'divisor' | 'gradientNoise' | 'sensitivity'>,
  ffn: readonly number[],
): ReleasedStatistics {
  const noise = plan.gradientNoise * plan.sensitivity;
  const counted = sum.at(-2)! / PRESENCE;
  const weights = sum.at(-1)! / PRESENCE;
  const divisor = weights > (CERTAIN * noise) / PRESENCE ? weights : plan.divisor;
  const toMean = norm.bound / divisor;
  const variance = (noise * toMean) ** 2;
  const mean = Float64Array.from(sum.subarray(0, norm.center.length), v => v * toMean);
  const shrink = (values: Float64Array, dimensions: number): number =>
    Math.max(0, 1 - (variance * dimensions) / Math.max(1e-300, squared(values)));
  const within = norm.span?.project(mean) ?? new Float64Array(mean.length);
  const shareWithin = norm.span === undefined ? 0 : shrink(within, norm.span.rank);
  let energy = 0;
  let at = 0;
  const take = (width: number): Float64Array => {
    const rest = mean.subarray(at, at + width).map((v, i) => v - within[at + i]!);
    const share = shrink(rest, width);
    const out = rest.map((v, i) => {
      const x = share * v + shareWithin * within[at + i]!;
      energy += x * x;
      return norm.center[at + i]! + x * norm.scale[at + i]!;
    });
    at += width;
    return out;
  };
  const found = { ...norm.public };
  for (const channel of norm.channels) found[channel] = ffn.map(take);
  const influence = norm.influence ? take(ffn.length) : norm.publicInfluence;
  // A unit's root of a mean is not the root of the mean, but both grow by the same factor.
  const variances = found.rms.map((row, layer) =>
    row.map((rms, j) => {
      const before = norm.public.rms[layer]![j]!;
      const ratio = before > 0 ? Math.max(LEAST_SCALE, rms / before) : 1;
      const square = norm.squares[layer]![j]! * ratio ** 2;
      return Math.max(0.01 * square, square - found.mean[layer]![j]! ** 2);
    }),
  );
  return {
    meanAbs: found.meanAbs.map(row => row.map(v => Math.max(0, v))),
    mean: found.mean,
    variance: variances,
    influence,
    tokens: 0,
    units: Math.max(0, Math.round(counted)),
    kept: Math.min(1, energy / Math.max(1e-300, squared(mean))),
  };
}
