/**
 * Audit of one private step of text training through the code that is deployed, on public text. With the plan's seed the release can
 * be taken apart: weights before minus after is the noised sum, a twin of the plan gives the noise, and what is left must be the
 * clipped sum of the units' gradients, which is computed once more another way (one example at a time, without the machinery of
 * private training, norms in float64). Nothing statistical about it but the size of the noise.
 */
import type { EngineModel } from '../../model/engine/model.ts';
import { disposeGradients, loraA, loraB } from '../../model/engine/sinks.ts';
import { type Example, meanGradient } from '../../model/engine/units.ts';
import type { OptimizerSettings } from '../../training/optimizer.ts';
import { type Method, prepareTraining } from '../../training/trainables.ts';
import { type TrainRequest, type TrainResult, trainToEnd } from '../../training/trainer.ts';
import { streamFor } from '../noise.ts';
import { type DpPlan, makePlan, type PlanRequest } from '../plan.ts';
import { contributionFinding, type Finding, noiseFinding, norm } from './finding.ts';

export interface StepAuditRequest {
  /** A fresh model each time it is asked: a training changes its weights. */
  readonly model: () => EngineModel | Promise<EngineModel>;
  readonly method: Method;
  /** Public; all of them are taken (sample rate 1), each also alone. */
  readonly units: readonly (readonly Example[])[];
  readonly plan: Pick<PlanRequest, 'noiseMultiplier' | 'clip' | 'delta'> & { readonly seed: Uint8Array };
  /** Small: a unit's examples, and units, then fall into several microbatches. */
  readonly maxTokens?: number;
  /** What is audited. Default: the deployed training. */
  readonly train?: (request: TrainRequest & { readonly plan: DpPlan }) => Promise<TrainResult>;
}

type Flat = Map<string, Float64Array>;

/** @returns noise, the contribution of each unit alone, and the sum of all against the exact one. */
export async function auditStep(request: StepAuditRequest): Promise<Finding[]> {
  const { units } = request;
  const findings: Finding[] = [];
  for (const [i, unit] of units.entries()) {
    const { sum, plan } = await oneStep(request, [unit]);
    findings.push(contributionFinding(norm(joined(sum)), plan.sensitivity, `unit ${i}`));
  }
  const { released, sum, plan } = await oneStep(request, units);
  const exact = await exactSum(request, plan);
  const difference = minus(sum, exact);
  const error = norm(joined(difference)) / Math.max(plan.sensitivity, norm(joined(exact)));
  const residual = joined(minus(released, exact));
  return [
    noiseFinding(residual, plan.gradientNoise * plan.sensitivity, 'a step'),
    ...findings,
    {
      check: 'the clipped sum',
      ok: error <= 1e-3,
      detail: `differs by ${error.toExponential(1)} of its length from the sum of one example at a time`,
    },
  ];
}

const joined = (of: Flat): Float64Array => {
  const all = new Float64Array([...of.values()].reduce((n, x) => n + x.length, 0));
  let at = 0;
  for (const x of of.values()) {
    all.set(x, at);
    at += x.length;
  }
  return all;
};

const minus = (a: Flat, b: Flat): Flat =>
  new Map([...a].map(([key, x]) => [key, x.map((value, i) => value - b.get(key)![i]!)]));

const planFor = ({ plan }: StepAuditRequest, units: number): DpPlan =>
  makePlan({ ...plan, units, expectedUnits: Math.max(1, units), sampleRate: 1, steps: 1, unit: 'user' });

/** The noised sum that one step released, and what is left of it without the noise. */
async function oneStep(
  request: StepAuditRequest,
  units: StepAuditRequest['units'],
): Promise<{ released: Flat; sum: Flat; plan: DpPlan }> {
  const { method, plan: asked, train = trainToEnd, maxTokens } = request;
  const plan = planFor(request, units.length);
  const model = await request.model();
  const start = prepareTraining(model, method, streamFor(asked.seed, 'training'));
  const keys = [...start.parameters.keys()];
  const before = new Map(keys.map(key => [key, Float64Array.from(start.parameters.get(key).dataSync())]));
  start.dispose();
  // A learning rate of the divisor: the weights move by the noised sum itself.
  const optimizer: OptimizerSettings = { kind: 'sgd', learningRate: plan.divisor, momentum: 0 };
  const result = await train({
    ...{ model, method, units, plan, optimizer, seed: asked.seed },
    ...(maxTokens !== undefined && { maxTokens }),
  });
  const after = afterOf(result);
  model.dispose();
  const released: Flat = new Map(keys.map(key => [key, before.get(key)!.map((value, i) => value - after(key)[i]!)]));
  // What the plan says before the step: an adaptive bound moves with it.
  const twin = planFor(request, units.length);
  const noise: Flat = new Map(keys.map(key => [key, Float64Array.from(twin.noise(0, released.get(key)!.length, key))]));
  return { released, sum: minus(released, noise), plan: twin };
}

const afterOf = ({ weights, adapter }: TrainResult) => {
  const all = new Map<string, Float32Array>();
  for (const [name, { data }] of weights ?? []) all.set(name, data);
  for (const [name, { a, b }] of adapter?.pairs ?? []) all.set(loraA(name), a.data).set(loraB(name), b.data);
  return (key: string): Float32Array => all.get(key)!;
};

async function exactSum(request: StepAuditRequest, plan: DpPlan): Promise<Flat> {
  const model = await request.model();
  const { trainable, dispose } = prepareTraining(model, request.method, streamFor(request.plan.seed, 'training'));
  const total: Flat = new Map();
  for (const unit of request.units) {
    const mean: Flat = new Map();
    for (const example of unit) {
      const { gradients } = await meanGradient(model, [example], trainable, { maxTokens: 1 << 20 });
      for (const key of trainable.keys) {
        const found = gradients.get(key)?.dataSync();
        const into = mean.get(key) ?? new Float64Array(trainableSize(found, total.get(key)));
        if (found) for (let i = 0; i < into.length; i++) into[i]! += found[i]! / unit.length;
        mean.set(key, into);
      }
      disposeGradients(gradients);
    }
    const factor = plan.clipFactor(norm(joined(mean)));
    for (const [key, values] of mean) {
      const into = total.get(key) ?? new Float64Array(values.length);
      for (let i = 0; i < into.length; i++) into[i]! += factor * values[i]!;
      total.set(key, into);
    }
  }
  dispose();
  model.dispose();
  return total;
}

const trainableSize = (found: ArrayLike<number> | undefined, before: Float64Array | undefined): number =>
  found?.length ?? before?.length ?? 0;
