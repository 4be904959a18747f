"""Random mechanisms and what other accountants say of them: writes privacy.json.

opacus 1.6.0 (Renyi on its orders; PRV upper bound), dp-accounting 0.6.0 (Renyi on its orders, absolute coefficients; PLD, discretised
optimistically and pessimistically, add/remove neighbours), numpy seed 11. Only opacus/accountants is needed: with the wheel unpacked in a
folder on PYTHONPATH without opacus/__init__.py, and an opacus/optimizers.py of "class DPOptimizer: pass", torch is not.
Run: python make_privacy.py > privacy.json     (a quarter of an hour)
"""
import json
import sys
import warnings

import dp_accounting
import numpy as np
from dp_accounting.pld import privacy_loss_distribution as pld
from dp_accounting.rdp import RdpAccountant
from opacus.accountants.analysis import rdp as opacus_rdp
from opacus.accountants.prv import PRVAccountant

warnings.filterwarnings("ignore")
rng = np.random.default_rng(11)
ORDERS = [1 + x / 10.0 for x in range(1, 100)] + list(range(12, 64))


def pld_epsilon(mechanisms, delta, pessimistic):
    total = None
    for sigma, q, steps in mechanisms:
        one = pld.from_gaussian_mechanism(
            sigma, sampling_prob=q, pessimistic_estimate=pessimistic, value_discretization_interval=1e-4,
            use_connect_dots=pessimistic).self_compose(steps)
        total = one if total is None else total.compose(one)
    return float(total.get_epsilon_for_delta(delta))


def case(mechanisms, delta):
    rdp = sum(opacus_rdp.compute_rdp(q=q, noise_multiplier=s, steps=t, orders=ORDERS) for s, q, t in mechanisms)
    row = {"mechanisms": [{"noise_multiplier": s, "sample_rate": q, "steps": t} for s, q, t in mechanisms], "delta": delta,
           "opacus_rdp": float(opacus_rdp.get_privacy_spent(orders=ORDERS, rdp=rdp, delta=delta)[0])}
    event = dp_accounting.ComposedDpEvent([
        dp_accounting.SelfComposedDpEvent(dp_accounting.PoissonSampledDpEvent(q, dp_accounting.GaussianDpEvent(s)), t)
        for s, q, t in mechanisms])
    row["dpa_rdp"] = float(RdpAccountant().compose(event).get_epsilon(delta))
    try:
        prv = PRVAccountant()
        prv.history = list(mechanisms)
        row["opacus_prv"] = float(prv.get_epsilon(delta)) if all(q < 1 for _, q, _ in mechanisms) else None
    except Exception:  # its own grid does not always carry
        row["opacus_prv"] = None
    row["pld_lower"] = pld_epsilon(mechanisms, delta, False)
    row["pld_upper"] = pld_epsilon(mechanisms, delta, True)
    return row


rows = []
for i in range(200):
    k = 1 if i % 100 < 70 else int(rng.integers(2, 4))
    mechanisms = []
    for _ in range(k):
        q = 1.0 if rng.random() < 0.15 else float(np.round(10 ** rng.uniform(-3, -0.15), 5))
        steps = int(10 ** rng.uniform(0, 1.5 if q > 0.3 else 3.3))
        # Noise that makes it matter: about one unit of epsilon for every so many steps.
        sigma = float(np.round(max(0.5, q * np.sqrt(steps) * 10 ** rng.uniform(-0.3, 0.6)), 4))
        mechanisms.append((sigma, q, steps))
    row = case(mechanisms, float(10.0 ** -rng.integers(4, 8)))
    rows.append(row)
    print(i, row["opacus_rdp"], row["opacus_prv"], row["pld_lower"], row["pld_upper"], file=sys.stderr, flush=True)
print(json.dumps({"source": "opacus 1.6.0, dp-accounting 0.6.0", "rows": rows}, separators=(",", ":")))
