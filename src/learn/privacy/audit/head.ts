/**
 * Full-power audit of head training, on made-up public data through the code that is deployed: every canary is a user whose gradient
 * has a direction of its own and is longer than the bound, so that nothing but the noise hides whether it took part. Without sampling
 * T steps of noise z are then a Gaussian release with mu = sqrt(T) / z, which the scores measure: above the claim the guarantee is
 * broken, far below it more noise is added than is paid for.
 */
import { headScores } from '../../model/head.ts';
import { type HeadRequest, headPlan, type TrainedHead, trainHead } from '../../training/head.ts';
import { type SecureStream, streamFor } from '../noise.ts';
import type { DpPlan } from '../plan.ts';
import {
  type BoundOptions,
  clopperPearsonEpsilon,
  type MuInterval,
  muInterval,
  oneRunEpsilon,
  oneRunGaussianEpsilon,
} from './bounds.ts';
import type { Finding } from './finding.ts';
import { auroc, type Canary, rocCurve, tprAtFpr } from './scores.ts';

export interface HeadAuditRequest {
  /** Each takes part by a fair coin. More tell more: 600 tell mu to about .6 either way. */
  readonly canaries: number;
  /** The claim that is tested, at the deployed settings (`headPlan`). */
  readonly epsilon: number;
  readonly delta: number;
  /** Of coins, labels and the plan: 32 bytes. */
  readonly seed: Uint8Array;
  /** Chance of a false alarm of each finding. Default .001. */
  readonly significance?: number;
  /** What is audited. Default: the deployed `trainHead`. */
  readonly train?: (request: HeadRequest & { readonly privacy: DpPlan }) => Promise<TrainedHead>;
}

export interface AuditReport {
  readonly claim: { readonly epsilon: number; readonly delta: number; readonly mu: number };
  readonly canaries: number;
  readonly bounds: { readonly oneRun: number; readonly oneRunGaussian: number; readonly clopperPearson: number };
  readonly mu: MuInterval;
  readonly auroc: number;
  /** At a false positive rate of .1%. */
  readonly tpr: number;
  readonly findings: readonly Finding[];
}

/** Averaging the last quarter of the iterates, and gradients that shrink as a canary is learned, cost the canary this much of its mu. */
const EFFICIENCY = 0.93;

export async function auditHead(request: HeadAuditRequest): Promise<AuditReport> {
  const { canaries: m, delta, seed, significance = 0.001, train = trainHead } = request;
  const stream = streamFor(seed, 'audit');
  const unitVector = (i: number, size = 1): Float32Array => {
    const x = new Float32Array(m);
    x[i] = size;
    return x;
  };
  const coins = Array.from({ length: m }, () => ({ in: stream.uniform() < 0.5, label: stream.below(2) }));
  const units = coins.flatMap((coin, i) =>
    coin.in ? [{ user: `canary-${i}`, examples: [{ feature: unitVector(i), label: coin.label }] }] : [],
  );
  const plan = headPlan({
    units: units.length,
    expectedUnits: m,
    epsilon: request.epsilon,
    delta,
    seed: streamSeed(seed),
  });
  const trained = await train({
    task: 'audit',
    labels: ['a', 'b'],
    units,
    // Every direction alike, no mean: the training space is then the features' own.
    publicFeatures: coins.flatMap((_, i) => [unitVector(i), unitVector(i, -1)]),
    // The same for both labels: the start is zero.
    labelFeatures: [[unitVector(0)], [unitVector(0)]],
    privacy: plan,
    layer: 1,
    featuresSha256: '0'.repeat(64),
  });
  // The release along the canary's own gradient, as a client of the served head would see it: the change of its log-odds from 0.
  const scored = coins.map((coin, i): Canary => {
    const scores = headScores(trained.head, unitVector(i));
    return { in: coin.in, score: Math.log(scores[coin.label]! / scores[1 - coin.label]!) };
  });
  return reportOf(scored, plan, { delta, significance });
}

const streamSeed = (seed: Uint8Array): Uint8Array => {
  const bytes = new Uint8Array(32);
  const stream: SecureStream = streamFor(seed, 'audit plan');
  for (let i = 0; i < bytes.length; i++) bytes[i] = stream.below(256);
  return bytes;
};

function reportOf(
  scored: readonly Canary[],
  plan: DpPlan,
  options: Required<Omit<BoundOptions, 'choice'>>,
): AuditReport {
  const { delta, significance } = options;
  const mu = Math.sqrt(plan.mechanisms.reduce((sum, m) => sum + m.steps / m.noise_multiplier ** 2, 0));
  const bounds = {
    oneRun: oneRunEpsilon(scored, options),
    oneRunGaussian: oneRunGaussianEpsilon(scored, options),
    clopperPearson: clopperPearsonEpsilon(scored, options),
  };
  // The mean of all scores does not look at who took part.
  const middle = scored.reduce((sum, { score }) => sum + score, 0) / scored.length;
  const measured = muInterval(scored, middle, significance);
  const most = Math.max(...Object.values(bounds));
  const curve = rocCurve(scored);
  const findings: Finding[] = [
    {
      check: 'epsilon below the claim',
      ok: most <= plan.epsilon,
      detail: `the canaries show at least ${most.toFixed(3)}, ${plan.epsilon.toFixed(3)} is claimed`,
    },
    {
      check: 'no more is released than accounted',
      ok: measured.low <= mu,
      detail: `mu at least ${measured.low.toFixed(3)}, ${mu.toFixed(3)} is accounted`,
    },
    {
      check: 'no more noise than is paid for',
      ok: measured.high >= EFFICIENCY * mu,
      detail: `mu at most ${measured.high.toFixed(3)}, ${mu.toFixed(3)} is accounted`,
    },
  ];
  return {
    claim: { epsilon: plan.epsilon, delta, mu },
    canaries: scored.length,
    bounds,
    mu: measured,
    auroc: auroc(curve),
    tpr: tprAtFpr(curve, 0.001),
    findings,
  };
}
