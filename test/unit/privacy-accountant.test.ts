import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import test from 'node:test';
import { epsilon, type Mechanism, noiseMultiplier } from '../../src/learn/privacy/accountant.ts';
import { gaussianDelta, gaussianEpsilon } from '../../src/learn/privacy/gaussian.ts';
import { DPA_ORDERS, OPACUS_ORDERS, rdpEpsilon, rdpStep, rdpToEpsilon, rdpTotal } from '../../src/learn/privacy/rdp.ts';
import { erfc, logErfc } from '../../src/learn/privacy/special.ts';

const golden = <T>(name: string): T =>
  JSON.parse(readFileSync(new URL(`../golden/${name}`, import.meta.url), 'utf8')) as T;
const one = (sigma: number, q: number, steps: number): Mechanism[] => [
  { noise_multiplier: sigma, sample_rate: q, steps },
];
const near = (found: number, expected: number, tolerance: number, what = ''): void => {
  assert.ok(Math.abs(found - expected) <= tolerance, `${what} ${found} is not ${expected} to ${tolerance}`);
};

test('erfc and its logarithm reach 1e-13 relative, tail included (mpmath)', () => {
  const { rows } = golden<{ rows: { x: number; erfc: number; log_erfc: number }[] }>('erfc.json');
  for (const row of rows) {
    if (row.erfc > 1e-300) near(erfc(row.x) / row.erfc, 1, 1e-13, `erfc(${row.x})`);
    near(logErfc(row.x), row.log_erfc, 1e-13 * Math.max(1, Math.abs(row.log_erfc)), `log erfc(${row.x})`);
  }
});

// sigma, q, steps, epsilon PRV (Opacus tests/prv_accountant.py, delta 1e-6), epsilon RDP on Opacus' orders.
const TABLE: [number, number, number, number, number][] = [
  [0.8, 0.001, 100, 0.270403, 1.37107],
  [1.5, 0.001, 100, 0.0393694, 0.31614],
  [1.5, 0.05, 100, 1.953853, 2.15418],
  [2, 0.05, 100, 1.283637, 1.39696],
  [3, 0.2, 100, 3.381221, 3.63967],
  [0.8, 0.2, 100, 24.333664, 26.4775],
  [0.8, 0.05, 1000, 19.525843, 21.13672],
  [1.5, 0.05, 1000, 6.209969, 6.66781],
  [2, 0.05, 1000, 4.1728, 4.4755],
  [3, 0.05, 1000, 2.527574, 2.70863],
  [1.5, 0.001, 20000, 0.437005, 0.49699],
  [2, 0.001, 20000, 0.305838, 0.32272],
  [0.8, 0.001, 50000, 2.034515, 2.40747],
];
/** 2M and 8M cells. */
const LONG: typeof TABLE = [
  [3, 0.05, 20000, 13.961115, 14.8152],
  [3, 0.05, 50000, 24.942006, 26.33623],
];
const inCi = { skip: process.env.CI === undefined && 'some seconds each: set CI to run them' };

function check(table: typeof TABLE): void {
  for (const [sigma, q, steps, prv, rdp] of table) {
    near(epsilon(one(sigma, q, steps), 1e-6), prv, 5e-5, `PRV ${sigma} ${q} ${steps}`);
    near(epsilon(one(sigma, q, steps), 1e-6, 'rdp'), rdp, 6e-6, `RDP ${sigma} ${q} ${steps}`);
  }
}

test("the table of Opacus' accountant tests: PRV to 5e-5, RDP to its digits", () => check(TABLE));
test('the same, its longest runs', inCi, () => check(LONG));

test('published values (Opacus, TensorFlow Privacy, dp-accounting)', () => {
  const rdp = (sigma: number, q: number, steps: number, delta: number): number =>
    epsilon(one(sigma, q, steps), delta, 'rdp');
  near(rdp(1.5, 0.04, 2250, 1e-5), 7.32911117143, 1e-9);
  near(epsilon(one(1.5, 0.04, 2249), 1e-5), 6.777395712150674, 1e-6);
  near(rdp(1.3, 150 / 60000, 6000, 1e-5), 0.7242234026109595, 1e-9);
  near(rdp(1, 0.001, 30000, 1e-7), 1.4154988495444842, 1e-9);
  near(rdp(0.7, 1, 2, 1e-5), 10.8602036, 1e-6);
  near(rdp(0.7, 0.01, 120, 1e-5), 3.2392676, 1e-4);
  near(rdp(0.35, 1, 2, 1e-5), 26.2880374, 1e-4);
  // TensorFlow Privacy sums absolute coefficients, which is looser at fractional orders.
  near(rdp(0.35, 0.01, 120, 1e-5), 22.6248601, 0.03);
  near(rdp(1, 64 / 1e4, 782, 1e-6), 1.616, 1e-3);
  // PLD values: exact where nothing is sampled; the PRV bound states .01 of slack else.
  near(epsilon(one(0.7, 1, 2), 1e-5), 10.1224946, 1e-6);
  near(epsilon(one(0.35, 1, 2), 1e-5), 24.7160779, 1e-6);
  near(epsilon(one(0.7, 0.01, 120), 1e-5), 2.4612381, 0.0125);
  near(epsilon(one(0.35, 0.01, 120), 1e-5), 18.6977407, 0.0125);
  near(epsilon(one(1, 64 / 1e4, 782), 1e-6), 1.199, 0.0125);
  near(rdp(4.530877117, 1, 1, 1e-6), 1, 1e-3);
  near(gaussianDelta(Math.sqrt(3) / Math.sqrt(3), 1), 0.126936, 1e-6);
});

/** log E[(P/Q)^alpha] / (alpha - 1), P = (1-q) N(0, s^2) + q N(1, s^2), Q = N(0, s^2), by the trapezoid rule. */
function rdpByQuadrature(q: number, sigma: number, alpha: number): number {
  const h = sigma / 400;
  let sum = 0;
  for (let x = -14 * sigma; x < 14 * sigma + alpha; x += h) {
    const ratio = Math.log1p(q * Math.expm1((2 * x - 1) / (2 * sigma * sigma)));
    sum += Math.exp(alpha * ratio - (x * x) / (2 * sigma * sigma));
  }
  return Math.log((sum * h) / (sigma * Math.sqrt(2 * Math.PI))) / (alpha - 1);
}

test('the Renyi divergence is the integral it stands for', () => {
  for (const [q, sigma, alpha] of [
    [0.01, 2.5, 1.5],
    [0.01, 2.5, 2.5],
    [0.2, 1, 3.7],
    [0.5, 0.8, 1.1],
    [0.05, 0.6, 6],
    [0.9, 2, 10.9],
  ] as const)
    near(rdpStep(q, sigma, alpha) / rdpByQuadrature(q, sigma, alpha), 1, 1e-8, `${q} ${sigma} ${alpha}`);
});

test('Renyi values order by order, two rounds, and the orders themselves', () => {
  assert.equal(OPACUS_ORDERS.length, 151);
  assert.deepEqual([OPACUS_ORDERS[0], OPACUS_ORDERS.at(-1), DPA_ORDERS.at(-1)], [1.1, 63, 1024]);
  // dp-accounting sums absolute coefficients: the same at whole orders, a little larger at fractional ones.
  const published: [number, number][] = [
    [1.5, 6.70579741e-4],
    [2.5, 1.0854871e-3],
    [5, 2.18075656e-3],
    [50, 2.38460375e-2],
    [100, 167.416308],
  ];
  for (const [alpha, value] of published) {
    const ratio = (50 * rdpStep(0.01, 2.5, alpha)) / value;
    if (Number.isInteger(alpha)) near(ratio, 1, 1e-7, `order ${alpha}`);
    else assert.ok(ratio <= 1 && ratio > 0.96, `order ${alpha}: ${ratio}`);
  }
  const orders = Array.from({ length: 31 }, (_, i) => i + 2);
  const rounds = [...one(1, 1e-5, 10), ...one(3, 1e-4, 4)];
  const { epsilon: found, order } = rdpToEpsilon(rdpTotal(rounds, orders), 1e-5, orders);
  near(found, 0.336, 5e-4);
  assert.equal(order, 23);
});

interface Row {
  mechanisms: Mechanism[];
  delta: number;
  opacus_rdp: number;
  dpa_rdp: number;
  opacus_prv: number | null;
  pld_lower: number;
  pld_upper: number;
}

test('200 random compositions agree with Opacus and dp-accounting, and never lie below a lower bound', () => {
  const { rows } = golden<{ rows: Row[] }>('privacy.json');
  assert.equal(rows.length, 200);
  for (const [i, row] of rows.entries()) {
    const rdp = epsilon(row.mechanisms, row.delta, 'rdp');
    near(rdp, Math.max(0, row.opacus_rdp), 1e-6 * Math.max(1, row.opacus_rdp), `RDP ${i}`);
    const dpa = rdpEpsilon(row.mechanisms, row.delta, DPA_ORDERS);
    assert.ok(dpa <= row.dpa_rdp + 1e-9 && dpa > 0.9 * row.dpa_rdp, `${i}: ${dpa}, dp-accounting ${row.dpa_rdp}`);
    if (process.env.CI === undefined && i % 8 !== 0) continue; // the numerical composition of all takes some seconds
    const prv = epsilon(row.mechanisms, row.delta);
    assert.ok(prv >= row.pld_lower - 1e-9, `${i}: ${prv} below the lower bound ${row.pld_lower}`);
    assert.ok(prv <= rdp + 1e-12, `${i}: never looser than Renyi`);
    // Both are upper bounds: this one states .01 of mesh error, that one has next to none.
    assert.ok(prv <= row.pld_upper + 0.0115, `${i}: ${prv} far above ${row.pld_upper}`);
    near(prv, row.pld_upper, 0.0115, `PLD ${i}`);
    if (row.opacus_prv !== null) near(prv, Math.min(row.opacus_prv, rdp), 1e-2, `Opacus' PRV ${i}`);
  }
});

test('noise for a target: Opacus, the exact Gaussian curve, and never above the target', () => {
  const target = { epsilon: 8, delta: 1e-5, sampleRate: 0.04 };
  near(noiseMultiplier({ ...target, steps: 2250, accountant: 'rdp' }), 1.416, 1e-3);
  near(noiseMultiplier({ ...target, steps: 2000, accountant: 'rdp' }), 1.3562, 1e-3);
  // Opacus stops within .01 of the target, so its values lie a little above the smallest.
  near(noiseMultiplier({ ...target, steps: 2000 }), 1.2915, 1e-3);
  // One release without sampling, delta 1e-5 (to the three digits published).
  for (const [e, sigma] of [
    [8, 0.6],
    [4, 1.081],
    [2, 1.994],
    [1, 3.731],
  ] as const)
    near(noiseMultiplier({ epsilon: e, delta: 1e-5, sampleRate: 1, steps: 1 }), sigma, 6e-4);
  for (const [e, q, steps] of [
    [0.5, 0.1, 20],
    [8, 0.5, 12],
    [30, 0.01, 3],
  ] as const) {
    const sigma = noiseMultiplier({ epsilon: e, delta: 1e-6, sampleRate: q, steps });
    const spent = epsilon(one(sigma, q, steps), 1e-6);
    assert.ok(spent <= e && spent > e * 0.998, `${spent} of ${e}`);
    assert.ok(epsilon(one(sigma * 0.999, q, steps), 1e-6) > e, 'a thousandth less is too little');
  }
});

test('prior rounds are composed, not added; a spent budget is refused', () => {
  const prior = one(4, 1, 3);
  const sigma = noiseMultiplier({ epsilon: 3, delta: 1e-6, sampleRate: 0.3, steps: 10, prior });
  const total = epsilon([...prior, ...one(sigma, 0.3, 10)], 1e-6);
  assert.ok(total <= 3 && total > 2.99);
  assert.ok(epsilon(prior, 1e-6) + epsilon(one(sigma, 0.3, 10), 1e-6) > 3.3, 'the plain sum is far more');
  assert.ok(sigma > noiseMultiplier({ epsilon: 3, delta: 1e-6, sampleRate: 0.3, steps: 10 }));
  const refused = (request: Parameters<typeof noiseMultiplier>[0]): void =>
    assert.throws(() => noiseMultiplier(request), { code: 'budget_exhausted' });
  refused({ epsilon: 1, delta: 1e-6, sampleRate: 1, steps: 1, prior: one(1, 1, 1) });
  refused({ epsilon: epsilon(prior, 1e-6), delta: 1e-6, sampleRate: 1, steps: 1, prior });
});

test('order, splitting and idle mechanisms make no difference', () => {
  const a = one(1.1, 0.2, 6)[0]!;
  const b = one(2, 1, 4)[0]!;
  const all = epsilon([a, b], 1e-6);
  assert.equal(epsilon([b, a], 1e-6), all);
  assert.equal(epsilon([b, { ...a, steps: 2 }, { ...a, steps: 4 }], 1e-6), all);
  assert.equal(epsilon([a, b, { ...a, steps: 0 }, { ...b, sample_rate: 0 }], 1e-6), all);
  assert.equal(epsilon([], 1e-6), 0);
  near(epsilon(one(2, 1, 4), 1e-6), gaussianEpsilon(1, 1e-6), 1e-12);
});

test('extremes stay upper bounds: rounding-sized delta, huge and tiny noise', () => {
  assert.equal(epsilon(one(1, 0.1, 1000), 1e-15), epsilon(one(1, 0.1, 1000), 1e-15, 'rdp'), 'falls back to Renyi');
  assert.ok(epsilon(one(1000, 0.01, 1), 1e-5) < 0.02);
  near(rdpStep(0.5, 20, 1.1), rdpStep(0.5, 20, 1.1000001), 1e-9, 'a slow series');
});

test('very small and very large epsilon', inCi, () => {
  const tight = noiseMultiplier({ epsilon: 0.015, delta: 1e-6, sampleRate: 0.2, steps: 5 });
  assert.ok(epsilon(one(tight, 0.2, 5), 1e-6) <= 0.015);
  const loud = epsilon(one(0.1, 0.5, 20), 1e-6);
  assert.ok(loud > 500 && Number.isFinite(loud));
});

test('wrong input is refused by the name of the field', () => {
  const bad: [() => unknown, RegExp][] = [
    [() => epsilon(one(0, 0.1, 1), 1e-5), /noise_multiplier/],
    [() => epsilon(one(Number.NaN, 0.1, 1), 1e-5), /noise_multiplier/],
    [() => epsilon(one(1, 1.1, 1), 1e-5), /sample_rate/],
    [() => epsilon(one(1, 0.1, 1.5), 1e-5), /steps/],
    [() => epsilon(one(1, 0.1, -1), 1e-5), /steps/],
    [() => epsilon([...one(1, 0.1, 1), ...one(1, 2, 1)], 1e-5), /\[1\]\.sample_rate/],
    [() => epsilon(one(1, 0.1, 1), 0), /delta/],
    [() => epsilon(one(1, 0.1, 1), 1), /delta/],
    [() => epsilon(one(1, 0.1, 1), 1e-5, 'gdp' as never), /accountant/],
    [() => noiseMultiplier({ epsilon: 0, delta: 1e-5, sampleRate: 0.1, steps: 1 }), /epsilon/],
    [() => noiseMultiplier({ epsilon: 1, delta: 1e-5, sampleRate: 0, steps: 1 }), /sample_rate/],
    [() => noiseMultiplier({ epsilon: 1, delta: 1e-5, sampleRate: 0.1, steps: 0 }), /steps/],
  ];
  for (const [call, field] of bad) {
    assert.throws(call, (error: Error & { code?: string; field?: string }) => {
      assert.equal(error.code, 'invalid');
      assert.match(error.field ?? '', field);
      return true;
    });
  }
});
