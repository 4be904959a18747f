import assert from 'node:assert/strict';
import test from 'node:test';
import { type EngineModel, loadEngineModel } from '../../src/learn/model/engine/model.ts';
import { disposeGradients } from '../../src/learn/model/engine/sinks.ts';
import { type Example, meanGradient } from '../../src/learn/model/engine/units.ts';
import type { HostTensor, ModelConfig } from '../../src/learn/model/types.ts';
import { auditHead, type HeadAuditRequest } from '../../src/learn/privacy/audit/head.ts';
import type { Finding } from '../../src/learn/privacy/audit/index.ts';
import { auditStep, type StepAuditRequest } from '../../src/learn/privacy/audit/step.ts';
import { streamFor } from '../../src/learn/privacy/noise.ts';
import type { DpPlan } from '../../src/learn/privacy/plan.ts';
import { tensorflow } from '../../src/learn/tensor/backend.ts';
import { trainHead } from '../../src/learn/training/head.ts';
import { mapSource, randomWeights, trainToEnd } from '../../src/learn/training/index.ts';
import { PUBLIC_SENTENCES } from '../../src/learn/training/public-text.ts';
import { prepareTraining } from '../../src/learn/training/trainables.ts';
import { byteToken, TINY } from '../support/tiny-model.ts';

/**
 * The privacy audit at full power, on public data through the deployed code. The faults are planted by wrapping what the training is
 * given, never by a switch in the program. Seeds are fixed; where a finding is statistical its chance of a false alarm is .001.
 */
const seed = new Uint8Array(32).fill(1);
const failing = (findings: readonly Finding[]): string[] => findings.filter(f => !f.ok).map(f => f.check);

type Noise = (plan: DpPlan, step: number, n: number, part: string) => Float32Array;

/** The plan with other noise than it accounts for, and the belief that this is right: the training's own check then sees nothing. */
const withNoise = (plan: DpPlan, share: number, noise: Noise): DpPlan => ({
  ...plan,
  gradientNoise: share * plan.gradientNoise,
  noise: (step, n, part = '') => noise(plan, step, n, part),
  meanNoise: (step, n, part = '') => tensorflow().tensor1d(noise(plan, step, n, part).map(x => x / plan.divisor)),
});

const faults = {
  'noise x 0.5': (plan: DpPlan) => withNoise(plan, 0.5, (of, step, n, part) => of.noise(step, n, part).map(x => x / 2)),
  'no noise': (plan: DpPlan) => withNoise(plan, 0, (_of, _step, n) => new Float32Array(n)),
  'clipping off': (plan: DpPlan) => ({
    ...plan,
    clipFactor: () => 1,
    sensitivity: 100 * plan.sensitivity,
    gradientNoise: plan.gradientNoise / 100,
  }),
  'noise once a microbatch': (plan: DpPlan) =>
    withNoise(plan, 2, (of, step, n, part) => {
      const sum = of.noise(step, n, part);
      for (let extra = 1; extra < 4; extra++) {
        const more = of.noise(step, n, `${part}/${extra}`);
        for (let i = 0; i < n; i++) sum[i]! += more[i]!;
      }
      return sum;
    }),
};
type Fault = keyof typeof faults;

const head = (epsilon: number, fault?: Fault) => {
  const request: HeadAuditRequest = { canaries: 500, epsilon, delta: 1e-5, seed };
  if (fault === undefined) return auditHead(request);
  return auditHead({
    ...request,
    train: of => trainHead({ ...of, privacy: faults[fault](of.privacy) }),
  });
};

test('a head by the deployed training: mu of the release is what is accounted', async () => {
  const report = await head(8);
  assert.deepEqual(failing(report.findings), []);
  assert.ok(report.mu.low < report.claim.mu && report.mu.low > 0.5 * report.claim.mu, 'the audit has power');
});

test('half the noise, no clipping, too much noise: each is caught by the canaries of a head', async () => {
  assert.deepEqual(failing((await head(8, 'noise x 0.5')).findings), ['no more is released than accounted']);
  assert.deepEqual(failing((await head(8, 'noise once a microbatch')).findings), ['no more noise than is paid for']);
  for (const fault of ['clipping off', 'no noise'] as const) {
    // So few canaries can show an epsilon of 5 at most, so at a claim of 8 only mu tells; at 2 both do.
    assert.deepEqual(failing((await head(2, fault)).findings), [
      'epsilon below the claim',
      'no more is released than accounted',
    ]);
  }
});

const tokensOf = (text: string): number[] => [...text].map(byteToken);
const example = (text: string): Example => ({ tokens: tokensOf(text) });

function model(config: ModelConfig): EngineModel {
  const tied = { ...config, tied: true };
  const source = randomWeights(tied, streamFor(seed, 'weights'));
  const weights = new Map<string, HostTensor>(source.names().map(name => [name, source.read(name)]));
  if (!config.tied) weights.set('lm_head.weight', weights.get('model.embed_tokens.weight')!);
  return loadEngineModel({ config, weights: mapSource(weights) });
}

/** One user with several texts of different lengths, users with one, one with the same token all over. */
const units: Example[][] = [
  PUBLIC_SENTENCES.slice(0, 3).map(text => example(text.slice(0, 24))),
  [example(PUBLIC_SENTENCES[4]!.slice(0, 40))],
  [example('aaaaaaaaaaaaaaaa')],
  [example('zzzzzzzzz')],
];
const step: Omit<StepAuditRequest, 'method'> = {
  model: () => model(TINY),
  units,
  plan: { noiseMultiplier: 1, clip: { kind: 'flat', bound: 0.05 }, delta: 1e-5, seed },
  maxTokens: 64,
};
const full: StepAuditRequest['method'] = { kind: 'full' };
const methods: StepAuditRequest['method'][] = [full, { kind: 'lora', rank: 2 }, { kind: 'norms', layers: 1 }];

test('a step of text training, every method and clipping: noise, contributions and sum are what the plan says', async () => {
  for (const method of methods) assert.deepEqual(failing(await auditStep({ ...step, method })), [], method.kind);
  for (const clip of [{ kind: 'auto-s' }, { kind: 'quantile', initial: 0.05 }] as const)
    assert.deepEqual(
      failing(await auditStep({ ...step, units: units.slice(0, 2), method: full, plan: { ...step.plan, clip } })),
      [],
      clip.kind,
    );
});

test('half the noise, none, too much, and no clipping: each is caught in a step', async () => {
  const two = units.slice(1, 3);
  const audit = async (fault: Fault): Promise<string[]> =>
    failing(
      await auditStep({
        ...{ ...step, units: two, method: full },
        train: request => trainToEnd({ ...request, plan: faults[fault](request.plan) }),
      }),
    );
  for (const fault of ['noise x 0.5', 'no noise', 'noise once a microbatch'] as const)
    assert.ok((await audit(fault)).includes('noise of a step'), fault);
  const unclipped = await audit('clipping off');
  for (const i of two.keys()) assert.ok(unclipped.includes(`contribution of unit ${i}`));
  assert.ok(unclipped.includes('the clipped sum'));
});

/** Inner product of the two halves of a tied matrix's gradient: what they would be if the matrices were two. */
async function crossTerm(unit: readonly Example[]): Promise<{ exact: number; without: number }> {
  const untied = model({ ...TINY, tied: false });
  const { trainable } = prepareTraining(untied, { kind: 'full' }, streamFor(seed, 'training'));
  const sums = new Map<string, Float64Array>();
  for (const one of unit) {
    const { gradients } = await meanGradient(untied, [one], trainable, { maxTokens: 4096 });
    for (const [key, gradient] of gradients) {
      const into = sums.get(key) ?? new Float64Array(gradient.size);
      const found = gradient.dataSync();
      for (let i = 0; i < into.length; i++) into[i]! += found[i]! / unit.length;
      sums.set(key, into);
    }
    disposeGradients(gradients);
  }
  untied.dispose();
  const square = [...sums.values()].reduce((sum, x) => sum + x.reduce((s, v) => s + v * v, 0), 0);
  const [e, o] = [sums.get('model.embed_tokens.weight')!, sums.get('lm_head.weight')!];
  const cross = e.reduce((sum, x, i) => sum + x * o[i]!, 0);
  return { exact: Math.sqrt(square + 2 * cross), without: Math.sqrt(square) };
}

test("the tied matrix's cross term left out of the norms: caught where it makes a unit's contribution too long", async () => {
  const terms = await Promise.all(units.map(crossTerm));
  const wrong = (norm: number): number => {
    const of = terms.find(({ exact }) => Math.abs(exact / norm - 1) < 1e-3);
    assert.ok(of, `the norm ${norm} is one of a unit's`);
    return of.without;
  };
  const findings = await auditStep({
    ...step,
    method: full,
    train: request =>
      trainToEnd({
        ...request,
        plan: { ...request.plan, clipFactor: norm => request.plan.clipFactor(wrong(norm)) },
      }),
  });
  const tooLong = terms.flatMap(({ exact, without }, i) =>
    exact > 1.01 * without ? [`contribution of unit ${i}`] : [],
  );
  assert.ok(tooLong.length > 0, `a unit whose cross term matters: ${JSON.stringify(terms)}`);
  assert.deepEqual(failing(findings), [...tooLong, 'the clipped sum']);
});
