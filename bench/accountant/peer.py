"""Epsilon by Opacus (PRV) and dp-accounting (PLD), timed: a JSON question a line in, an answer a line out."""
import json
import sys
import time
import warnings

warnings.filterwarnings("ignore")
from dp_accounting.pld import privacy_loss_distribution as pld  # noqa: E402
from opacus.accountants.prv import PRVAccountant  # noqa: E402


def opacus(sigma, q, steps, delta):
    accountant = PRVAccountant()
    accountant.history = [(sigma, q, steps)]
    return float(accountant.get_epsilon(delta))


def dp_accounting(sigma, q, steps, delta, pessimistic=True):
    one = pld.from_gaussian_mechanism(
        sigma, sampling_prob=q, pessimistic_estimate=pessimistic, value_discretization_interval=1e-4,
        use_connect_dots=pessimistic)
    return float(one.self_compose(steps).get_epsilon_for_delta(delta))


def timed(f, *args):
    started = time.perf_counter()
    value = f(*args)
    return {"epsilon": value, "seconds": time.perf_counter() - started}


for line in sys.stdin:
    case = json.loads(line)
    args = (case["sigma"], case["q"], case["steps"], case["delta"])
    answer = timed({"opacus": opacus, "dp-accounting": dp_accounting}[case["by"]], *args) if case["by"] != "lower" else {
        "epsilon": dp_accounting(*args, pessimistic=False), "seconds": 0}
    print(json.dumps(answer), flush=True)
