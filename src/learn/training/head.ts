/**
 * A softmax classifier on frozen features, trained by user-level DP gradient descent: full batches, each user's mean gradient
 * scaled to one length, noise once a step, a public divisor. Everything else is public: standardisation and training space from public
 * sentences, the start from the labels' names, rates from the number of labels, the expected users and the noise.
 *
 * The constants were chosen on BANKING77 and CLINC150 (docs/results/heads.md): 15 intents, 300 users of 5 labels, SmolLM2-135M block 10,
 * delta 1e-6: weighted F1 .924 / .976 at epsilon 8, .894 / .955 at 4, .822 / .919 at 2, .747 / .844 at 1.
 */
import { invalid } from '../../base/errors.ts';
import type { Head } from '../model/types.ts';
import { norm } from '../privacy/audit/finding.ts';
import { type Clip, type DpPlan, type Mechanism, makePlan } from '../privacy/index.ts';
import type { ItemFacts, Outcomes } from './constraints/counts.ts';
import { Steering } from './constraints/duals.ts';
import type { CountedConstraint } from './constraints/spec.ts';
import { HeadGradients, type HeadSteering, type UnitRows } from './head-kernels.ts';
import { publicStatistics, standardise, TrainingSpace } from './head-space.ts';
import { releaseFinding, requireAll } from './self-check.ts';

export interface HeadUnit {
  /** The privacy unit; units of the same user are merged. */
  readonly user: string;
  /** feature: [hidden] as the feature model gives it; label: index into labels. */
  readonly examples: readonly { readonly feature: Float32Array; readonly label: number; readonly region?: string }[];
}

export interface HeadPrivacy {
  readonly epsilon: number;
  readonly delta: number;
  /** Released before on the same users. */
  readonly prior?: readonly Mechanism[];
  /** Public constant: how many users a round is expected to have. */
  readonly expectedUnits: number;
}

export interface HeadRequest {
  readonly task: string;
  /** Declared, so public; in declared order. */
  readonly labels: readonly string[];
  readonly units: readonly HeadUnit[];
  /** Features of public sentences: some hundred. */
  readonly publicFeatures: readonly Float32Array[];
  /** For each label the features of a few sentences made from its name (labelSentences). */
  readonly labelFeatures: readonly (readonly Float32Array[])[];
  /** A head released before for this task, to go on from: what its noise was paid for is not lost. */
  readonly before?: Head;
  /** A target, or a plan made before (headPlan); null: no noise, on public examples only. */
  readonly privacy: HeadPrivacy | DpPlan | null;
  /** On recall and gaps; under privacy the plan must have a share for their counts (`countShare`). */
  readonly constraints?: readonly CountedConstraint[];
  /** 32 secret bytes that replay the noise; with a target only. */
  readonly seed?: Uint8Array;
  readonly layer: number;
  /** sha256 of the base the features come from. */
  readonly featuresSha256: string;
  /** Awaited after each step; return false to stop there (steps taken are what is charged). */
  readonly onStep?: (step: number, steps: number) => unknown;
}

export interface TrainedHead {
  readonly head: Head;
  /** What was released, with the steps really taken; empty without privacy. */
  readonly mechanisms: readonly Mechanism[];
  /** Spent by these alone (with `prior` where a target was given); null without privacy. */
  readonly epsilon: number | null;
  readonly noiseMultiplier: number | null;
  readonly steps: number;
  /** Mean loss before each step, nats. Empty under privacy: such losses are not covered by the noise. */
  readonly losses: readonly number[];
  /** L2 distance of the weights from their start. */
  readonly change: number;
}

/** All users, every step: at a few hundred users sampling gains nothing. More than 24 steps no longer helps. */
export const HEAD_STEPS = 24;
/** So low that nearly every gradient is scaled to this very length: hard and easy users count alike. */
export const HEAD_CLIP: Clip = { kind: 'flat', bound: 0.02 };
/** Examples of one user that count: their mean is one contribution, so more only cost time. */
export const MOST_EXAMPLES = 64;
/** Mean length of a row at the start: confident enough that gradients are about mistakes. */
const START = 10;
/** The last quarter of the iterates is averaged, which is post-processing. */
const AVERAGED = 0.25;
/** Sum of the steps' rates, for each label: what a label gains falls with their number. Binds where there are many users. */
const TOTAL_RATE = 100;
/** And no more than gives the logit of a feature of length 1 this standard deviation from the noise of all steps. */
const LOGIT_NOISE = 0.75;
/** Without noise, longer: F1 .955 on BANKING77 (.960 with twice the steps). */
const PUBLIC_STEPS = 96;

const SENTENCES = [
  'I have a question about {}.',
  'Please help me with {}.',
  'I need help: {}.',
  'Can you tell me about {}?',
  'There is a problem with my {}.',
] as const;

/** Sentences that need no data: a label's name (underscores as spaces) in everyday requests. */
export function labelSentences(label: string): string[] {
  const name = label
    .replace(/[_\s]+/g, ' ')
    .trim()
    .toLowerCase();
  return SENTENCES.map(sentence => sentence.replace('{}', () => name));
}

/** The plan a head is trained by: reserve its mechanisms before, train with it, settle after. */
export function headPlan(request: {
  units: number;
  expectedUnits: number;
  epsilon: number;
  delta: number;
  prior?: readonly Mechanism[];
  /** For constraints on recall and gaps. */
  countShare?: number;
  seed?: Uint8Array;
}): DpPlan {
  return makePlan({ ...request, sampleRate: 1, steps: HEAD_STEPS, clip: HEAD_CLIP, unit: 'user' });
}

const isPlan = (privacy: HeadPrivacy | DpPlan): privacy is DpPlan => 'clipFactor' in privacy;

function check(request: HeadRequest): void {
  const { labels, units, labelFeatures, publicFeatures } = request;
  if (labels.length < 2) throw invalid('labels', 'a classifier needs at least two labels');
  if (labelFeatures.length !== labels.length || labelFeatures.some(rows => rows.length === 0))
    throw invalid('labelFeatures', `must hold at least one feature for each of the ${labels.length} labels`);
  if (publicFeatures.length < 2) throw invalid('publicFeatures', 'must hold features of public sentences');
  const hidden = publicFeatures[0]!.length;
  for (const unit of units) {
    for (const { feature, label } of unit.examples) {
      if (!(Number.isInteger(label) && label >= 0 && label < labels.length))
        throw invalid('units', `label ${label} is not one of the ${labels.length}`);
      if (feature.length !== hidden)
        throw invalid('units', `a feature has ${feature.length} numbers, the public ones ${hidden}`);
    }
  }
}

/** One unit a user, their last examples. */
function byUser(units: readonly HeadUnit[]): HeadUnit['examples'][] {
  const users = new Map<string, HeadUnit['examples'][number][]>();
  for (const { user, examples } of units) users.set(user, [...(users.get(user) ?? []), ...examples]);
  return [...users.values()].map(examples => examples.slice(-MOST_EXAMPLES)).filter(examples => examples.length > 0);
}

function startRows(
  request: HeadRequest,
  space: TrainingSpace,
  toSpace: (f: Float32Array) => Float32Array,
): Float64Array {
  const labels = request.labels.length;
  const n = space.size;
  const rows = new Float64Array(labels * n);
  const mean = new Float64Array(n);
  for (const [row, features] of request.labelFeatures.entries()) {
    for (const feature of features) {
      const y = toSpace(feature);
      for (let i = 0; i < n; i++) {
        rows[row * n + i]! += y[i]! / features.length;
        mean[i]! += y[i]! / features.length / labels;
      }
    }
  }
  let lengths = 0;
  for (let row = 0; row < labels; row++) {
    let square = 0;
    for (let i = 0; i < n; i++) {
      const centred = rows[row * n + i]! - mean[i]!;
      rows[row * n + i] = centred;
      square += centred * centred;
    }
    lengths += Math.sqrt(square) / labels;
  }
  return lengths > 0 ? rows.map(value => (value * START) / lengths) : rows;
}

/** Rows of the labels that the earlier head knows, where it saw features as this one does. */
function continueFrom(
  before: Head,
  start: Float64Array,
  labels: readonly string[],
  { mean, scale, space }: { mean: Float32Array; scale: Float32Array; space: TrainingSpace },
): void {
  const same = (a: Float32Array, b: Float32Array): boolean => a.length === b.length && a.every((v, i) => v === b[i]);
  if (!same(before.mean, mean) || !same(before.scale, scale)) return;
  const rows = space.unfold(before.weight);
  const n = space.size;
  labels.forEach((label, row) => {
    const at = before.labels.indexOf(label);
    if (at >= 0) start.set(rows.subarray(at * n, (at + 1) * n), row * n);
  });
}

/**
 * Trains the head. Under privacy a unit is a user; the result spends at most what was asked for.
 * @throws LearndError invalid (naming the field) or budget_exhausted
 */
export async function trainHead(request: HeadRequest): Promise<TrainedHead> {
  check(request);
  const { labels, publicFeatures, privacy } = request;
  const { mean, scale } = publicStatistics(publicFeatures);
  const space = new TrainingSpace(publicFeatures.map(f => standardise(f, mean, scale)));
  const hidden = space.size;
  const users = byUser(request.units);
  const plan =
    privacy === null || isPlan(privacy) ? privacy : headPlan({ ...privacy, units: users.length, seed: request.seed });
  if (plan !== null && plan.units !== users.length)
    throw invalid('privacy', `the plan is for ${plan.units} users, there are ${users.length}`);
  if (plan === null && users.length === 0) throw invalid('units', 'there is nothing to learn from');

  const count = users.reduce((sum, examples) => sum + examples.length, 0);
  const features = new Float32Array(count * hidden);
  const truth = new Int32Array(count);
  const units: UnitRows[] = [];
  const facts: ItemFacts[] = [];
  let at = 0;
  const standard = new Float32Array(hidden);
  for (const examples of users) {
    units.push({ from: at, to: at + examples.length });
    for (const { feature, label, region } of examples) {
      facts.push({ label: labels[label]!, ...(region !== undefined && { region }) });
      space.into(standardise(feature, mean, scale, standard), 0, features, at * hidden);
      truth[at++] = label;
    }
  }

  const start = startRows(request, space, f => space.into(standardise(f, mean, scale)));
  if (request.before !== undefined) continueFrom(request.before, start, request.labels, { mean, scale, space });
  const { constraints = [] } = request;
  const steering = constraints.length === 0 ? undefined : new Steering(constraints, new Map(facts.map(of => [of, of])));
  const steered = steering && { steering, facts };
  const run = await descend({ features, truth, units, hidden, start, plan, steered, onStep: request.onStep });
  const mechanisms = plan?.mechanisms.map(m => ({ ...m, steps: run.steps })) ?? [];
  return {
    head: {
      task: request.task,
      labels: [...labels],
      features: request.featuresSha256,
      layer: request.layer,
      pooling: 'mean',
      mean,
      scale,
      weight: space.fold(run.weight),
      bias: new Float32Array(labels.length),
    },
    mechanisms,
    epsilon: plan?.epsilon ?? null,
    noiseMultiplier: plan?.noiseMultiplier ?? null,
    steps: run.steps,
    losses: run.losses,
    change: Math.sqrt(run.weight.reduce((sum, value, i) => sum + (value - start[i]!) ** 2, 0)),
  };
}

interface Descent {
  readonly features: Float32Array;
  readonly truth: Int32Array;
  readonly units: readonly UnitRows[];
  readonly hidden: number;
  readonly start: Float64Array;
  readonly plan: DpPlan | null;
  /** `facts`: of each row, which also stand for the rows. */
  readonly steered: { readonly steering: Steering; readonly facts: readonly ItemFacts[] } | undefined;
  readonly onStep: HeadRequest['onStep'];
}

/** Total of the steps' rates, in units of whole (scaled) contributions, from public numbers alone. */
export function totalRate(labels: number, plan: DpPlan | null): number {
  if (plan === null) return TOTAL_RATE * labels;
  return Math.min(TOTAL_RATE * labels, (LOGIT_NOISE * plan.divisor * Math.sqrt(plan.steps)) / plan.noiseMultiplier);
}

async function descend(input: Descent): Promise<{ weight: Float64Array; steps: number; losses: number[] }> {
  const { plan, units, hidden, start } = input;
  const labels = start.length / hidden;
  const planned = plan?.steps ?? PUBLIC_STEPS;
  // In whole contributions of a step: an adaptive bound changes how large these are.
  const rate = totalRate(labels, plan) / planned / (plan?.divisor ?? units.length);
  const keep = Math.max(1, Math.ceil(AVERAGED * planned));
  const weight = Float64Array.from(start);
  const tail: Float64Array[] = [];
  const losses: number[] = [];
  let norms: number[] = [];
  const factor = (of: number): number => {
    norms.push(of);
    return plan === null ? scaleAlone(of) : plan.clipFactor(of);
  };
  const gradients = new HeadGradients(input.features, input.truth, units, { hidden, labels });
  let step = 0;
  try {
    while (step < planned) {
      norms = [];
      const outcomes: Outcomes[] = [];
      const steer = input.steered && steerBy(input.steered, outcomes);
      const { sum, loss } = gradients.sum(weight, factor, plan?.sample(step), steer);
      input.steered?.steering.count(plan, step, outcomes);
      if (plan === null) losses.push(loss / units.length);
      const stepRate = rate / (plan?.sensitivity ?? 1);
      const noise = plan?.noise(step, sum.length, 'head');
      if (noise !== undefined) for (let i = 0; i < sum.length; i++) sum[i]! += noise[i]!;
      for (let i = 0; i < sum.length; i++) weight[i]! -= stepRate * sum[i]!;
      if (plan !== null) {
        const release = { norm: norm(sum), noise: norm(noise!), numbers: sum.length, drawn: norms.length };
        requireAll([releaseFinding(release, plan)]);
        plan.observe(step, norms);
      }
      tail.push(Float64Array.from(weight));
      if (tail.length > keep) tail.shift();
      step += 1;
      if ((await input.onStep?.(step, planned)) === false) break;
    }
  } finally {
    gradients.dispose();
  }
  const average = new Float64Array(weight.length);
  for (const iterate of tail) for (let i = 0; i < average.length; i++) average[i]! += iterate[i]! / tail.length;
  return { weight: average, steps: step, losses };
}

/** Weights stay as they are through a step; what its units got right is gathered for the count after it. */
const steerBy = ({ steering, facts }: NonNullable<Descent['steered']>, outcomes: Outcomes[]): HeadSteering => ({
  weight: row => steering.weight(facts[row]!),
  unit: rows => {
    outcomes.push(rows.map(({ row, correct }) => ({ item: facts[row]!, correct })));
    return steering.unitFactor(rows.map(({ row }) => facts[row]!));
  },
});

/** Without noise a gradient is scaled to length 1 as well: the steps are then alike. */
const scaleAlone = (norm: number): number => (Number.isFinite(norm) ? 1 / (norm + 1e-3) : 0);
