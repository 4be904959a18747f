"""Exposures by a fitted skew-normal distribution, as privacy_tests/secret_sharer/exposures.py of TensorFlow Privacy extrapolates them
(-log2 of the fitted cdf at the secret's perplexity; the cdf's logarithm in 50 digits, since scipy's is 0 in the tail): writes exposure.json.

scipy 1.17.1 (stats.skewnorm), numpy 2.4.6, mpmath 1.4.1, numpy seed 11. Run: python make_exposure.py > exposure.json
"""
import json

import mpmath
import numpy as np
from scipy import stats
from scipy.optimize import minimize

mpmath.mp.dps = 50

def log_cdf(x, a):
    density = lambda t: 2 * mpmath.npdf(t) * mpmath.ncdf(a * t)
    return float(mpmath.log(mpmath.quad(density, [x - 30, x - 8, x - 3, x - 1] + [x - k / 50 for k in range(49, -1, -1)])))


rng = np.random.default_rng(11)
fits = []
for shape, location, scale, count in [(0.0, 60, 3, 200), (3.0, 50, 5, 400), (-4.0, 70, 2, 300), (1.5, 10, 1, 1000), (3.0, 5, 2, 80), (2.0, 60, 3, 24)]:
    values = np.round(stats.skewnorm.rvs(shape, location, scale, size=count, random_state=rng), 6)
    fitted = stats.skewnorm.fit(values)
    # From the fit, as the default tolerance of the simplex leaves the last digits open.
    found = minimize(lambda p: -np.mean(stats.skewnorm.logpdf(values, p[0], p[1], np.exp(p[2]))), [fitted[0], fitted[1], np.log(fitted[2])],
                     method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-14, "maxiter": 20000, "maxfev": 20000})
    a, loc, s = found.x[0], found.x[1], float(np.exp(found.x[2]))
    secrets = [float(np.quantile(values, q)) for q in (0.02, 0.3, 0.9)] + [float(values.min() - 0.3 * values.std())]
    fits.append({"values": values.tolist(), "shape": a, "location": loc, "scale": s, "mean_log_likelihood": -float(found.fun),
                 "secrets": secrets, "exposure": [-log_cdf((x - loc) / s, a) / float(np.log(2)) for x in secrets],
                 "scipy_cdf": [float(stats.skewnorm.cdf(x, a, loc, s)) for x in secrets]})


tail = [{"x": x, "shape": a, "log_cdf": log_cdf(x, a)} for x in (-12, -5, -2, -0.5, 0.7, 3) for a in (-6, -1, 0.5, 4)]
print(json.dumps({"source": "scipy 1.17.1, mpmath 1.4.1", "fits": fits, "tail": tail}, separators=(",", ":")))
