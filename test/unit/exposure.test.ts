import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import test from 'node:test';
import { exposure, extrapolatedExposure } from '../../src/learn/privacy/audit/index.ts';
import { fitSkewNormal, logSkewNormalCdf, type SkewNormal } from '../../src/learn/privacy/audit/skew-normal.ts';
import { logNormalCdf } from '../../src/learn/privacy/special.ts';

const golden = JSON.parse(readFileSync(new URL('../golden/exposure.json', import.meta.url), 'utf8')) as {
  fits: (SkewNormal & {
    values: number[];
    mean_log_likelihood: number;
    secrets: number[];
    exposure: number[];
    scipy_cdf: number[];
  })[];
  tail: { x: number; shape: number; log_cdf: number }[];
};

test('the distribution function of a skew-normal, far into its tail', () => {
  for (const { x, shape, log_cdf } of golden.tail) {
    const found = logSkewNormalCdf(x, { shape, location: 0, scale: 1 });
    assert.ok(Math.abs(found - log_cdf) < 1e-8, `${x}, shape ${shape}: ${found} is not ${log_cdf}`);
  }
  assert.equal(logSkewNormalCdf(-3, { shape: 0, location: 1, scale: 2 }), logNormalCdf(-2));
});

test('fits and exposures are those of scipy', () => {
  for (const [i, { values, secrets, mean_log_likelihood: best, ...wanted }] of golden.fits.entries()) {
    const fitted = fitSkewNormal(values);
    const { shape, location, scale } = fitted;
    const likelihood =
      values.reduce((sum, x) => {
        const z = (x - location) / scale;
        return sum + Math.log(2 / scale) - 0.5 * z * z - 0.5 * Math.log(2 * Math.PI) + logNormalCdf(shape * z);
      }, 0) / values.length;
    assert.ok(likelihood > best - 1e-9, `${i}: log-likelihood ${likelihood}, scipy's ${best}`);
    for (const [j, bits] of extrapolatedExposure(values, secrets).entries()) {
      const off = Math.abs(bits - wanted.exposure[j]!) / Math.max(1, wanted.exposure[j]!);
      assert.ok(off < 2e-3, `${i}, ${j}: ${bits} bits, scipy ${wanted.exposure[j]}`);
      if (wanted.scipy_cdf[j]! > 1e-6) assert.ok(Math.abs(2 ** -bits - wanted.scipy_cdf[j]!) < 1e-4);
    }
  }
});

test('rank and extrapolation agree among the candidates; beyond all of them only the second goes on', () => {
  const [{ values }] = golden.fits as [(typeof golden.fits)[number]];
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted[50]!;
  assert.ok(Math.abs(exposure(values, middle - 1e-9) - extrapolatedExposure(values, [middle])[0]!) < 0.3);
  const beyond = [sorted[0]! - 5, sorted[0]! - 20];
  assert.deepEqual(
    beyond.map(value => exposure(values, value)),
    [Math.log2(200), Math.log2(200)],
  );
  const [near, far] = extrapolatedExposure(values, beyond);
  assert.ok(near! > Math.log2(200) + 2 && far! > near! + 10 && Number.isFinite(far));
  // Half of a normal distribution: the likelihood alone has no maximum, and a sharp edge no meaning.
  const half = Array.from({ length: 24 }, (_, i) => 5 + i ** 1.5 / 20);
  assert.ok(Math.abs(fitSkewNormal(half).shape) > 20);
  assert.ok(Math.abs(fitSkewNormal(half, { few: true }).shape) < 8);
  assert.throws(() => extrapolatedExposure([1, 2, 3], [0]), { field: 'references', message: /at least 8/ });
  assert.throws(() => extrapolatedExposure(Array(9).fill(4), [0]), { field: 'references', message: /all the same/ });
});
