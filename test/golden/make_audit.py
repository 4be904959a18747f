"""Scores of canaries and what jax-privacy's auditor says of them: writes audit.json.

jax_privacy/auditing.py of github.com/google-deepmind/jax_privacy at 8967688 (2.3.0.dev0; it needs numpy 2.4.6, scipy 1.17.1 and
dp-accounting 0.6.0, not jax: put the file alone in a folder jax_privacy/ with an empty __init__.py), numpy seed 5.
Run: PYTHONPATH=that_folder python make_audit.py > audit.json
"""
import json

import numpy as np
import scipy.stats
from jax_privacy import auditing

rng = np.random.default_rng(5)
rows = []
for n_in, n_out, shift, spread, digits, delta, significance in [
    (20, 30, 1.0, 1.0, 4, 1e-5, 0.05), (100, 100, 2.0, 1.0, 4, 1e-5, 0.05), (100, 80, 0.0, 1.0, 4, 1e-6, 0.05),
    (200, 200, 3.0, 1.5, 4, 1e-5, 0.01), (50, 50, 1.0, 1.0, 0, 1e-4, 0.1), (300, 250, 1.5, 0.5, 4, 1e-6, 0.05),
    (4, 4, 9.0, 1.0, 4, 1e-6, 0.05), (150, 150, -1.0, 1.0, 4, 1e-5, 0.05),
]:
    ins = np.round(rng.normal(shift, spread, n_in), digits)
    outs = np.round(rng.normal(0, 1, n_out), digits)
    a = auditing.CanaryScoreAuditor(ins, outs)
    threshold = auditing.Explicit(shift / 2)
    rows.append({
        "in": ins.tolist(), "out": outs.tolist(), "delta": delta, "significance": significance,
        "one_run": float(a.epsilon_one_run(significance, delta)),
        "one_run_fdp": float(a.epsilon_one_run_fdp(significance, delta)),
        "clopper_pearson": float(a.epsilon_clopper_pearson(significance, delta)),
        "gdp": float(a.epsilon_from_gdp(significance, delta)),
        "auroc": float(a.attack_auroc()),
        "fpr": [0, 0.001, 0.01, 0.1, 0.5, 1],
        "tpr": [float(x) for x in a.tpr_at_given_fpr([0, 0.001, 0.01, 0.1, 0.5, 1])],
    })
upper = [{"k": k, "n": n, "significance": s, "p": float(scipy.stats.beta.ppf(1 - s, k + 1, n - k))}
         for k, n, s in [(0, 10, .05), (3, 10, .05), (9, 10, .01), (500, 1000, .025), (1, 20000, 1e-4), (19990, 20000, .05)]]
pvalues = [{"m": m, "guesses": g, "right": c, "epsilon": e, "delta": d, "p": float(auditing._one_run_p_value(m, g, c, e, d))}
           for m, g, c, e, d in [(100, 20, 19, 1.0, 1e-5), (1000, 400, 380, 2.0, 1e-6), (50, 50, 25, 0.1, 1e-4), (10, 3, 3, 0.0, 1e-6),
                                 (5000, 300, 299, 4.5, 1e-5)]]
print(json.dumps({"source": "jax-privacy 2.3.0.dev0 auditing.py, scipy 1.17.1", "rows": rows, "upper": upper, "p_values": pvalues},
                 separators=(",", ":")))
