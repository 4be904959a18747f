"""Weighted F1 and per-class tables of scikit-learn 1.9.1 (zero_division=0): writes f1.json.  Run: python make_f1.py > f1.json"""
import json

import numpy as np
from sklearn.metrics import f1_score, precision_recall_fscore_support

rng = np.random.default_rng(3)
cases = []


def case(true, predicted):
    labels = sorted(set(true) | set(predicted))
    p, r, f, s = precision_recall_fscore_support(true, predicted, labels=labels, zero_division=0)
    cases.append({
        "true": true, "predicted": predicted,
        "weighted_f1": float(f1_score(true, predicted, average="weighted", zero_division=0)),
        "per_class": {k: {"precision": float(a), "recall": float(b), "f1": float(c), "support": int(d)}
                      for k, a, b, c, d in zip(labels, p, r, f, s)}})


case(["a", "b", "a", "c"], ["a", "b", "b", "c"])
case(["a", "a"], ["b", "b"])
case(["a"], ["a"])
case(["x", "y", "z", "x"], ["x", "x", "x", "x"])
for n, k in ((50, 3), (200, 7), (400, 20), (300, 77)):
    weights = rng.dirichlet(np.ones(k))
    true = rng.choice(k, n, p=weights)
    predicted = np.where(rng.random(n) < 0.7, true, rng.integers(0, k, n))
    case([f"label {i}" for i in true], [f"label {i}" for i in predicted])
print(json.dumps({"source": "scikit-learn 1.9.1", "cases": cases}, separators=(",", ":")))
