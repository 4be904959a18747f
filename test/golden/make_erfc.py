"""Chebyshev coefficients used by src/learn/privacy/special.ts, and golden values of erfc and log erfc.

mpmath 1.4.1 at 50 digits. For x >= 0, log erfc(x) = -x^2 + log t + P(t), t = 2 / (2 + x); P is smooth on (0, 1], so its
Chebyshev series in y = 2t - 1 converges geometrically and covers the whole tail.
Run: python make_erfc.py > erfc.json
"""
import json
import mpmath as mp

mp.mp.dps = 50


def p(y):
    t = (y + 1) / 2
    if t == 0:
        return mp.log(mp.mpf(1) / 2 / mp.sqrt(mp.pi))
    x = 2 / t - 2
    scaled = mp.exp(x * x) * mp.erfc(x) if x < 60 else sum(
        (-1) ** k * mp.fac2(2 * k - 1) / (2 * x * x) ** k for k in range(25)) / (x * mp.sqrt(mp.pi))
    return mp.log(scaled / t)


n = 64
values = [p(mp.cos(mp.pi * (k + mp.mpf(1) / 2) / n)) for k in range(n)]
coefficients = []
for j in range(32):
    c = 2 * sum(values[k] * mp.cos(mp.pi * j * (k + mp.mpf(1) / 2) / n) for k in range(n)) / n
    coefficients.append(float(c if j else c / 2))

xs = [-30, -8, -5.5, -3, -1.5, -0.7, -0.1, -1e-9, 0, 1e-9, 0.01, 0.3, 0.5, 0.9, 1.3, 1.99, 2, 2.01, 3.7, 5, 7.5, 10, 14, 20,
      26, 60, 300, 5000]


def log_erfc(x):
    if x < 50:
        return mp.log(mp.erfc(x))
    x = mp.mpf(x)
    return -x * x - mp.log(x * mp.sqrt(mp.pi)) + mp.log(
        sum((-1) ** k * mp.fac2(2 * k - 1) / (2 * x * x) ** k for k in range(12)))


print(json.dumps({
    "source": "mpmath 1.4.1, 50 digits",
    "coefficients": coefficients,
    "rows": [{"x": x, "erfc": float(mp.erfc(mp.mpf(x))), "log_erfc": float(log_erfc(mp.mpf(x)))} for x in xs],
}, indent=1))
