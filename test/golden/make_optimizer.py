"""Optimizers: ten updates by PyTorch from gradients that are given, so that nothing but the optimizer is compared.

torch 2.8.0, float64. Run in this folder: python make_optimizer.py > optimizer.json
Gradients span twelve orders of magnitude, as they do in training; some are zero.
"""
import json

import numpy as np
import torch

STEPS, SHAPE = 10, (4, 6)
rng = np.random.default_rng(3)
start = np.float32(rng.normal(size=SHAPE))
sizes = 10.0 ** rng.uniform(-10, 2, size=SHAPE)
gradients = [np.float32(rng.normal(size=SHAPE) * sizes) for _ in range(STEPS)]
for gradient in gradients:
    gradient[0, 0] = 0
rates = [min(1, (step + 1) / 3) for step in range(STEPS)]


def updates(make):
    value = torch.nn.Parameter(torch.tensor(start, dtype=torch.float64))
    optimizer = make([value])
    rate = optimizer.param_groups[0]["lr"]
    for gradient, factor in zip(gradients, rates):
        optimizer.param_groups[0]["lr"] = rate * factor
        value.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
    return (value.detach().numpy() - start).ravel().tolist()


listed = lambda a: [float(x) for x in a.ravel()]
print(
    json.dumps(
        {
            "versions": {"torch": torch.__version__},
            "shape": SHAPE,
            "start": listed(start),
            "gradients": [listed(g) for g in gradients],
            "rates": rates,
            "changes": {
                "adam": updates(lambda p: torch.optim.Adam(p, lr=1e-2)),
                "adamw": updates(lambda p: torch.optim.AdamW(p, lr=1e-2, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1)),
                "sgd": updates(lambda p: torch.optim.SGD(p, lr=1e-3)),
                "momentum": updates(lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9)),
            },
        }
    )
)
