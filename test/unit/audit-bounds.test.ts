import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import test from 'node:test';
import { logGamma, lowerBound, upperBound } from '../../src/learn/privacy/audit/binomial.ts';
import {
  auroc,
  type Canary,
  clopperPearsonEpsilon,
  exposure,
  gaussianEpsilonBound,
  largestBound,
  muInterval,
  oneRunEpsilon,
  oneRunGaussianEpsilon,
  oneRunPValue,
  rocCurve,
  tprAtFpr,
} from '../../src/learn/privacy/audit/index.ts';
import { gaussianEpsilon } from '../../src/learn/privacy/gaussian.ts';
import { SecureStream } from '../../src/learn/privacy/noise.ts';
import { normalCdf, normalQuantile } from '../../src/learn/privacy/special.ts';

const golden = JSON.parse(readFileSync(new URL('../golden/audit.json', import.meta.url), 'utf8')) as {
  rows: {
    in: number[];
    out: number[];
    delta: number;
    significance: number;
    one_run: number;
    one_run_fdp: number;
    clopper_pearson: number;
    gdp: number;
    auroc: number;
    fpr: number[];
    tpr: number[];
  }[];
  upper: { k: number; n: number; significance: number; p: number }[];
  p_values: { m: number; guesses: number; right: number; epsilon: number; delta: number; p: number }[];
};
const near = (found: number, expected: number, relative: number, what: string): void =>
  assert.ok(
    Math.abs(found - expected) <= relative * Math.max(1e-3, Math.abs(expected)),
    `${what}: ${found} is not ${expected} to ${relative}`,
  );
const canaries = (ins: readonly number[], outs: readonly number[]): Canary[] => [
  ...ins.map(score => ({ score, in: true })),
  ...outs.map(score => ({ score, in: false })),
];
/** 10,000 in = N(shift, 1), 10,000 out = N(0, 1), as quantiles. */
function quantiles(shift: number): Canary[] {
  const z = Array.from({ length: 10_000 }, (_, k) => normalQuantile((k + 0.5) / 10_000));
  return canaries(
    z.map(x => x + shift),
    z,
  );
}

test("the reference table of jax-privacy's auditor: one run, and one run against Gaussian releases", () => {
  for (const [shift, oneRun, gaussian] of [
    [0, 0, 0],
    [1, 1.13346, 2.164749],
    [2, 2.311945, 4.7218075],
    [4, 4.395568, 9.133752],
  ] as const) {
    near(oneRunEpsilon(quantiles(shift), { delta: 1e-6 }), oneRun, 1e-5, `shift ${shift}`);
    near(oneRunGaussianEpsilon(quantiles(shift), { delta: 1e-6 }), gaussian, 1e-5, `shift ${shift}, Gaussian`);
    const truth = shift === 0 ? 0 : gaussianEpsilon(shift, 1e-6);
    assert.ok(gaussian <= truth && gaussianEpsilonBound(quantiles(shift), { delta: 1e-6 }) <= truth);
  }
});

test('area under the curve, true positives at a rate of false ones, exposure: published values', () => {
  assert.equal(auroc(rocCurve(canaries([0, 4, 6, 7], [1, 2, 3, 5]))), 13 / 16);
  const curve = rocCurve(canaries([1, 3], [0, 2]));
  assert.deepEqual(
    [0, 0.25, 0.5, 0.75, 1].map(fpr => tprAtFpr(curve, fpr)),
    [0.5, 0.75, 1, 1, 1],
  );
  const references = Array.from({ length: 16 }, (_, i) => i + 1);
  assert.equal(exposure(references, 3.5), 2);
  near(exposure(references, 20), Math.log2(16 / 17), 1e-12, 'worse than all');
});

test('random scores with ties, few canaries, wrong direction: as jax-privacy and scipy say', () => {
  for (const [i, row] of golden.rows.entries()) {
    const of = canaries(row.in, row.out);
    const options = { delta: row.delta, significance: row.significance };
    near(oneRunEpsilon(of, options), row.one_run, 1e-4, `one run ${i}`);
    near(oneRunGaussianEpsilon(of, options), row.one_run_fdp, 1e-4, `Gaussian ${i}`);
    near(clopperPearsonEpsilon(of, options), row.clopper_pearson, 1e-5, `Clopper-Pearson ${i}`);
    near(gaussianEpsilonBound(of, options), row.gdp, 1e-5, `mu ${i}`);
    near(auroc(rocCurve(of)), row.auroc, 1e-12, `area ${i}`);
    for (const [j, fpr] of row.fpr.entries()) near(tprAtFpr(rocCurve(of), fpr), row.tpr[j]!, 1e-12, `rate ${i} ${fpr}`);
  }
  for (const { k, n, significance, p } of golden.upper) near(upperBound(k, n, significance), p, 1e-9, `${k} of ${n}`);
  for (const { p, ...of } of golden.p_values)
    near(oneRunPValue(of.m, of.guesses, of.right, of.epsilon, of.delta), p, 1e-8, JSON.stringify(of));
  assert.equal(upperBound(10, 10, 0.05), 1);
  near(lowerBound(7, 10, 0.05), 1 - upperBound(3, 10, 0.05), 1e-12, 'from below');
});

test('normal quantiles and log-gamma', () => {
  for (const p of [1e-300, 1e-20, 1e-5, 0.01, 0.1, 0.3, 0.7]) near(normalCdf(normalQuantile(p)) / p, 1, 1e-11, `${p}`);
  assert.deepEqual([normalQuantile(0), normalQuantile(1)], [-Infinity, Infinity]);
  let factorial = 0;
  for (let n = 2; n <= 170; n++) {
    factorial += Math.log(n);
    near(logGamma(n + 1), factorial, 1e-13, `${n}!`);
  }
});

test('the most that so many canaries can show is stated, and no scores pass it', () => {
  near(largestBound(100, { delta: 1e-6 }), 3.5, 0.02, '100 canaries');
  near(largestBound(128, { delta: 1e-9 }), Math.log(128 / Math.log(20)), 0.01, 'about ln(m / 3)');
  assert.equal(largestBound(0, { delta: 1e-6 }), 0);
  const perfect = canaries(new Array(64).fill(1), new Array(64).fill(0));
  for (const choice of [{ kind: 'bonferroni' }, { kind: 'guesses', counts: [32, 64, 96] }] as const)
    assert.ok(oneRunEpsilon(perfect, { delta: 1e-6, choice }) <= largestBound(128, { delta: 1e-6 }));
});

test('a release with epsilon stays below its own bound in at least 95% of seeds, for each way to choose', () => {
  // Randomised response: exactly (1, 0)-DP, the worst case of the bound.
  const truth = 1;
  const keep = 1 / (1 + Math.exp(-truth));
  const ways = [
    { kind: 'guesses', counts: [300] },
    { kind: 'guesses', counts: [50, 100, 200, 300] },
    { kind: 'bonferroni' },
    { kind: 'split', seed: new Uint8Array(32).fill(3) },
  ] as const;
  const above = ways.map(() => 0);
  for (let run = 0; run < 200; run++) {
    const stream = new SecureStream(new Uint8Array(32).fill(run + 1));
    const of = Array.from({ length: 300 }, (): Canary => {
      const inside = stream.uniform() < 0.5;
      return { in: inside, score: stream.uniform() < keep === inside ? 1 : 0 };
    });
    ways.forEach((choice, i) => {
      if (oneRunEpsilon(of, { delta: 1e-9, choice }) > truth) above[i]!++;
    });
  }
  for (const [i, count] of above.entries())
    assert.ok(count <= 18, `${ways[i]!.kind}: above the truth in ${count} of 200`);
});

test('mu between its two ends: 500 canaries, 60 runs', () => {
  let outside = 0;
  for (let run = 0; run < 60; run++) {
    const z = new SecureStream(new Uint8Array(32).fill(run + 1)).normal(1000);
    const { low, high } = muInterval(
      canaries(
        Array.from(z.subarray(0, 500), x => x + 1.5),
        Array.from(z.subarray(500)),
      ),
      0.75,
    );
    assert.ok(low < high && high - low < 0.6);
    if (low > 1.5 || high < 1.5) outside++;
  }
  assert.ok(outside <= 6, `${outside} of 60 outside`);
});

test('audits without canaries of both kinds, and scores that are no numbers, are refused', () => {
  assert.throws(() => oneRunEpsilon(canaries([1], []), { delta: 1e-6 }), { field: 'canaries' });
  assert.throws(() => oneRunEpsilon(canaries([Number.NaN], [1]), { delta: 1e-6 }), { field: 'canaries' });
  assert.throws(() => oneRunEpsilon(canaries([1], [0]), { delta: 0 }), { field: 'delta' });
  assert.throws(() => oneRunEpsilon(canaries([1], [0]), { delta: 1e-6, significance: 1 }), { field: 'significance' });
  assert.throws(() => exposure([], 1), { field: 'references' });
});
