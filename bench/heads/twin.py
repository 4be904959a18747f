"""The Opacus twin of a private head: the same frozen features, the same users, the same budget, DP-SGD by Opacus.

A sample is a user: five rows whose mean loss gives one gradient, so that Opacus clips and counts users. Standardised by the public
sentences and scaled to length 1 as ours; the layer starts at zero, or (start=names) at our start from the labels' names.
Reads a folder made by features.ts and tasks from standard input, one JSON a line; writes one JSON a line.
Versions: bench/peers/requirements.txt (torch, opacus, scikit-learn).
"""
import json
import sys
import warnings

import numpy as np
import torch
from opacus import PrivacyEngine
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from torch.utils.data import DataLoader, TensorDataset

warnings.filterwarnings("ignore")
torch.set_num_threads(1)
folder = sys.argv[1]
about = json.load(open(f"{folder}/about.json"))
hidden = about["hidden"]
load = lambda name: np.fromfile(f"{folder}/{name}.f32", dtype=np.float32).reshape(-1, hidden)
public = load("public").astype(np.float64)
mean, scale = public.mean(0), public.std(0) + 1e-6


def standard(x):
    y = (x - mean) / scale
    return (y / np.linalg.norm(y, axis=1, keepdims=True)).astype(np.float32)


train, test, names = (standard(load(n)) for n in ("train", "test", "names"))
train_y, test_y = np.array(about["train"]), np.array(about["test"])


def start_rows(kept):
    at = np.cumsum([0] + about["sentences"])
    rows = np.stack([names[at[k]:at[k + 1]].mean(0) for k in kept])
    rows = rows - rows.mean(0)
    return rows * (10 / np.linalg.norm(rows, axis=1).mean())


def run(task):
    kept, rows = task["kept"], np.array(task["rows"])
    place = {label: i for i, label in enumerate(kept)}
    keep = np.isin(test_y, kept)
    x, y = torch.tensor(train[rows]), torch.tensor(np.vectorize(place.get)(train_y[rows]))
    tx, ty = test[keep], np.vectorize(place.get)(test_y[keep])
    if task["epsilon"] is None:
        fit = LogisticRegression(C=task["c"], max_iter=200).fit(x.reshape(-1, hidden).numpy(), y.reshape(-1).numpy())
        return f1_score(ty, fit.predict(tx), average="weighted")
    torch.manual_seed(task["seed"])
    q, steps = task["rate"], task["steps"]
    model = torch.nn.Linear(hidden, len(kept))
    with torch.no_grad():
        model.weight.zero_()
        model.bias.zero_()
        if task["start"] == "names":
            model.weight.copy_(torch.tensor(start_rows(kept)))
    kind = torch.optim.Adam if task["optimizer"] == "adam" else torch.optim.SGD
    optimizer = kind(model.parameters(), lr=task["lr"])
    loader = DataLoader(TensorDataset(x, y), batch_size=max(1, round(q * len(x))))
    sigma = task["sigma"]  # Of our accountant, for q and steps: a tighter one than Opacus' own default, so the budget is truly the same.
    engine = PrivacyEngine()
    model, optimizer, loader = engine.make_private(module=model, optimizer=optimizer, data_loader=loader,
                                                   noise_multiplier=sigma, max_grad_norm=task["clip"], poisson_sampling=q < 1)
    done = 0
    while done < steps:
        for bx, by in loader:
            optimizer.zero_grad()
            if len(bx) > 0:
                out = model(bx)
                # A mean over the users drawn, each the mean of its five rows: what Opacus takes a sample's loss to be.
                torch.nn.functional.cross_entropy(out.flatten(0, 1), by.flatten()).backward()
            optimizer.step()
            done += 1
            if done == steps:
                break
    with torch.no_grad():
        predicted = model(torch.tensor(tx)).argmax(1).numpy()
    return f1_score(ty, predicted, average="weighted")


for line in sys.stdin:
    task = json.loads(line)
    print(json.dumps({**{k: v for k, v in task.items() if k not in ("rows", "kept")}, "f1": run(task)}), flush=True)
