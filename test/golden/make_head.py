"""A head trained without noise, in numpy with full matrices where the program has blocked kernels and Gram matrices: writes head.json.

numpy 2.4.6, seed 5. Inputs are float32; the arithmetic is float64.
Run: python make_head.py > head.json
"""
import json

import numpy as np

rng = np.random.default_rng(5)
HIDDEN, LABELS, STEPS, RIDGE, START, RATE = 12, 5, 96, 3.0, 10.0, 100.0


def f32(x):
    return np.asarray(x, dtype=np.float32).astype(np.float64)


centres = rng.normal(size=(LABELS, HIDDEN)) * 0.7
public = f32(rng.normal(size=(40, HIDDEN)) @ rng.normal(size=(HIDDEN, HIDDEN)) * 0.3)
label_features = f32(centres[:, None] * 0.5 + rng.normal(size=(LABELS, 3, HIDDEN)) * 0.4)
users = []
for u in range(17):
    n = 1 + u % 6
    y = rng.integers(0, LABELS, n)
    users.append((f32(centres[y] + rng.normal(size=(n, HIDDEN)) * 0.6), y))

mean, scale = f32(public.mean(0)), f32(public.std(0) + 1e-6)


def standard(x):
    z = (x - mean) / scale
    return z / np.linalg.norm(z, axis=-1, keepdims=True)


S = standard(public)
C = S.T @ S / len(S)
L = np.linalg.cholesky(C / np.trace(C) * HIDDEN + RIDGE * np.eye(HIDDEN))
factor = 1 / np.linalg.norm(np.linalg.solve(L, S.T), axis=0).mean()
space = lambda x: np.linalg.solve(L, standard(x).reshape(-1, HIDDEN).T).T * factor

V = space(label_features).reshape(LABELS, 3, HIDDEN).mean(1)
V -= V.mean(0)
V *= START / np.linalg.norm(V, axis=1).mean()
rate, tail = RATE * LABELS / STEPS / len(users), []
for step in range(STEPS):
    total = np.zeros_like(V)
    for x, y in users:
        F = space(x)
        Z = F @ V.T
        P = np.exp(Z - Z.max(1, keepdims=True))
        P /= P.sum(1, keepdims=True)
        G = (P - np.eye(LABELS)[y]).T @ F / len(y)
        total += G / (np.linalg.norm(G) + 1e-3)
    V = V - rate * total
    if step >= STEPS * 3 // 4:
        tail.append(V)
W = np.linalg.solve(L.T, np.mean(tail, 0).T).T * factor
probe = f32(rng.normal(size=(6, HIDDEN)))
Z = standard(probe) @ W.T
P = np.exp(Z - Z.max(1, keepdims=True))
print(json.dumps({
    "source": "numpy 2.4.6", "public": public.tolist(), "labels": label_features.tolist(),
    "users": [{"x": x.tolist(), "y": y.tolist()} for x, y in users], "weight": W.tolist(), "probe": probe.tolist(),
    "scores": (P / P.sum(1, keepdims=True)).tolist()}, separators=(",", ":")))
