import { invalid } from '../../base/errors.ts';
import type { ModelConfig } from '../model/types.ts';
import { noiseMultiplier } from '../privacy/accountant.ts';

/**
 * `method: auto`: which method is worth its noise, decided from public constants alone (never from how many rows there are).
 *
 * ```
 * chooseMethod({ data: 'documents', units: 1000, epsilon: 8, delta: 1e-5, shape: shapeOf(config, parameters) })
 *   -> { method: 'norms', histogramShare: 0.4, why: 'histogram of tokens first (40% of the budget), then norms: …', candidates }
 * ```
 * A private training on documents has up to two parts: one noised histogram of tokens (a bias on the vocabulary's logits), and
 * DP-SGD on top of it. `method` says what the second part trains; `bias` is the histogram alone. Prediction, in nats a token:
 *
 * - histogram: H (1 - sqrt(c / (n mu))), n units, mu the Gaussian privacy parameter of its share;
 * - steps: reach * s^2 / (1 + s^2) with s = a n mu / sqrt(p), p parameters: units' gradients of norm 1 agree on a length a, and
 *   averaging the steps leaves noise of length sqrt(p) / (n mu). s^2 / (1 + s^2) is what shrinking to the best length keeps.
 *
 * The constants are fits to measurements on public text (docs/results/documents.md): they rank methods, they promise no figure.
 */
export interface AutoRequest {
  readonly data: 'documents' | 'feedback';
  /** Units expected in the training view: a public constant, or a count that was itself released with noise. */
  readonly units: number;
  /** `none`: without noise, on public text. */
  readonly epsilon: number | 'none';
  readonly delta: number;
  readonly shape: TrainShape;
}

/** What of a model decides how many parameters a method trains. */
export interface TrainShape {
  readonly hidden: number;
  readonly layers: number;
  readonly kvWidth: number;
  readonly ffn: number;
  readonly parameters: number;
}

export type AutoMethod = 'head' | 'bias' | 'norms' | 'lora' | 'full';

export interface Candidate {
  readonly method: Exclude<AutoMethod, 'head'>;
  /** Numbers trained by DP-SGD; 0 for the histogram alone. */
  readonly parameters: number;
  /** Length of what the units agree on over that of the noise, all steps together, at the best split of the budget. */
  readonly signalToNoise: number;
  /** Share of mu^2 that the histogram gets. */
  readonly histogramShare: number;
  /** Predicted gain, nats a token. */
  readonly nats: number;
}

export interface AutoChoice {
  readonly method: AutoMethod;
  /** Of mu^2; 1 for `bias`, 0 where there is no histogram. */
  readonly histogramShare: number;
  /** One sentence for people: what was chosen, by which figures, and what was passed over. */
  readonly why: string;
  readonly candidates: readonly Candidate[];
}

/** Last blocks whose norm scales are trained, and the rank of private adapters on them. */
export const PRIVATE_LAYERS = 6;
export const PRIVATE_RANK = 4;

/** From a model's configuration; feed-forward widths may be uneven after pruning: their mean. */
export const shapeOf = (config: ModelConfig, parameters: number): TrainShape => ({
  hidden: config.hidden,
  layers: config.layers,
  kvWidth: config.kvHeads * config.headDim,
  ffn: config.ffn.reduce((sum, width) => sum + width, 0) / config.layers,
  parameters,
});

const HISTOGRAM = { reach: 0.8, scale: 98 } as const;
/**
 * Length of the mean of units' gradients of norm 1, and nats to be had beyond the histogram with neither noise nor hurry. Norm scales:
 * fitted to private trainings. LoRA and all weights: not measured under privacy, so the rule is that doubt counts for norm scales:
 * the agreement is set to a fifth of theirs (at the start, 12 inquiries without a bias, LoRA's gradients agreed on .40 and norm
 * scales' on .18), and they are taken where they win even so: SmolLM2-135M at epsilon 8: LoRA from 38,000 units, all weights from
 * 2 million. Below that their constants change nothing. `npm run bench -- documents agreement` measures them.
 */
const STEPS = {
  norms: { agreement: 0.072, reach: 0.5 },
  lora: { agreement: 0.015, reach: 0.7 },
  full: { agreement: 0.015, reach: 0.75 },
} as const;
/** Below this the steps are mostly noise, whatever the prediction says. */
export const LEAST_SIGNAL = 0.4;

/** Numbers that each method trains by DP-SGD. */
export function trainedParameters(method: 'norms' | 'lora' | 'full', shape: TrainShape): number {
  const { hidden, layers, kvWidth, ffn, parameters } = shape;
  const blocks = Math.min(PRIVATE_LAYERS, layers);
  switch (method) {
    case 'norms':
      return (2 * blocks + 1) * hidden;
    case 'lora':
      return PRIVATE_RANK * blocks * (2 * (2 * hidden) + 2 * (hidden + kvWidth) + 3 * (hidden + ffn));
    case 'full':
      return parameters;
  }
}

/** mu of the Gaussian mechanism that (epsilon, delta) allows in one release over every unit. */
export const muOf = (epsilon: number, delta: number): number =>
  1 / noiseMultiplier({ epsilon, delta, sampleRate: 1, steps: 1 });

/** The noise multiplier of a part that gets this share of mu^2, released at once over every unit. */
export const histogramNoise = (epsilon: number, delta: number, share: number): number =>
  1 / (muOf(epsilon, delta) * Math.sqrt(share));

/** @throws LearndError('invalid') for a number of units that is none. */
export function chooseMethod(request: AutoRequest): AutoChoice {
  const { data, units, epsilon, delta, shape } = request;
  if (!(Number.isFinite(units) && units >= 1)) throw invalid('units', `must be at least 1, not ${units}`);
  if (data === 'feedback')
    return {
      method: 'head',
      histogramShare: 0,
      why: 'feedback has labels: a classifier on frozen features learns most under noise (few numbers, large agreement)',
      candidates: [],
    };
  if (epsilon === 'none')
    return {
      method: 'lora',
      histogramShare: 0,
      why: 'public text needs no noise: LoRA on all blocks learns more than norm scales or a bias',
      candidates: [],
    };
  const mu = muOf(epsilon, delta);
  const candidates: Candidate[] = [
    { method: 'bias', parameters: 0, signalToNoise: 0, histogramShare: 1, nats: histogramNats(units * mu) },
    ...(['norms', 'lora', 'full'] as const).map(method =>
      bestSplit(method, trainedParameters(method, shape), units, mu),
    ),
  ];
  const worthy = candidates.filter(c => c.method === 'bias' || c.signalToNoise >= LEAST_SIGNAL);
  const chosen = worthy.reduce((best, next) => (next.nats > best.nats ? next : best));
  return {
    method: chosen.method,
    histogramShare: chosen.histogramShare,
    why: sentence(chosen, candidates, units, epsilon, delta),
    candidates,
  };
}

/**
 * Signal over noise of the steps when `units` are there: looked at again after the histogram, which counts the units under the
 * same noise (a charged check: there may be far fewer than were expected). Below `LEAST_SIGNAL` steps are not worth taking.
 */
export function signalOf(
  method: 'norms' | 'lora' | 'full',
  shape: TrainShape,
  units: number,
  noise: { readonly noiseMultiplier: number; readonly sampleRate: number; readonly steps: number },
): number {
  return (
    (STEPS[method].agreement * Math.max(0, units) * muOfSteps(noise)) / Math.sqrt(trainedParameters(method, shape))
  );
}

/** mu of sampled Gaussian steps: exact without sampling, else their central limit (arXiv 1911.11607). */
function muOfSteps({ noiseMultiplier: sigma, sampleRate, steps }: Parameters<typeof signalOf>[3]): number {
  if (sampleRate === 1) return Math.sqrt(steps) / sigma;
  return sampleRate * Math.sqrt(steps * Math.expm1(sigma ** -2));
}

const histogramNats = (signal: number): number =>
  HISTOGRAM.reach * Math.max(0, 1 - Math.sqrt(HISTOGRAM.scale / Math.max(1e-9, signal)));

function bestSplit(method: 'norms' | 'lora' | 'full', parameters: number, units: number, mu: number): Candidate {
  const { agreement, reach } = STEPS[method];
  let best: Candidate | undefined;
  for (let percent = 30; percent <= 70; percent += 10) {
    const histogramShare = percent / 100;
    const signalToNoise = (agreement * units * mu * Math.sqrt(1 - histogramShare)) / Math.sqrt(parameters);
    const square = signalToNoise ** 2;
    const nats = histogramNats(units * mu * Math.sqrt(histogramShare)) + (reach * square) / (1 + square);
    if (best === undefined || nats > best.nats) best = { method, parameters, signalToNoise, histogramShare, nats };
  }
  return best!;
}

const NAMES = { bias: 'the histogram alone', norms: 'norm scales', lora: 'LoRA', full: 'all weights' } as const;

function sentence(chosen: Candidate, all: readonly Candidate[], units: number, epsilon: number, delta: number): string {
  const about = (c: Candidate): string =>
    c.method === 'bias'
      ? `${NAMES.bias} ${c.nats.toFixed(2)} nats`
      : `${NAMES[c.method]} ${c.nats.toFixed(2)} nats (${c.parameters} numbers, signal ${c.signalToNoise.toPrecision(2)} of noise)`;
  const first =
    chosen.method === 'bias'
      ? 'a noised histogram of tokens alone'
      : `a noised histogram of tokens (${Math.round(chosen.histogramShare * 100)}% of the budget), then ${NAMES[chosen.method]}`;
  const others = all.filter(c => c !== chosen).map(about);
  return `auto: ${first}. Predicted for ${units} units at epsilon ${epsilon}, delta ${delta}: ${about(chosen)}; ${others.join('; ')}`;
}
