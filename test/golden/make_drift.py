"""Streams and the indices at which river 0.26.1's detectors report drift (defaults unless said): writes drift.json.

Streams are rounded to 6 decimals before river sees them, so that JSON carries them exactly.
Run: python make_drift.py > drift.json      (river 0.26.1, numpy 2.4.6)
"""
import json
import random

import numpy as np
from river import drift

rng = np.random.default_rng(7)
r = random.Random(12345)
streams = {
    "steps": [r.choice([0, 1]) for _ in range(1000)] + [r.choice(range(4, 8)) for _ in range(1000)],
    "normal-up-down": np.concatenate([rng.normal(m, 1, 400) for m in (0, 0.8, -0.5, 3)]),
    "small-shift": np.concatenate([rng.normal(3.2, 0.7, 900), rng.normal(3.5, 0.7, 900)]),
    "stationary": rng.normal(0, 1, 2500),
    "ramp": rng.normal(0, 1, 2000) + np.linspace(0, 3, 2000),
    "errors": np.concatenate([rng.random(n) < p for n, p in ((600, 0.1), (500, 0.45), (400, 0.1), (400, 0.9))]).astype(int),
    "correct": np.concatenate([rng.random(n) < p for n, p in ((700, 0.95), (400, 0.6), (400, 0.93))]).astype(int),
    "large-values": np.concatenate([rng.normal(500, 80, 400), rng.normal(800, 150, 400), rng.normal(420, 60, 400)]),
}
streams = {name: [round(float(x), 6) for x in xs] for name, xs in streams.items()}
bits = {"errors", "correct"}

cases = []


def run(stream, name, make, settings):
    detector = make(**settings)
    alarms = []
    for i, x in enumerate(streams[stream]):
        detector.update(x)
        if detector.drift_detected:
            alarms.append(i)
    cases.append({"stream": stream, "detector": name, "settings": settings, "alarms": alarms})


for stream in streams:
    for settings in ({}, {"delta": 0.05}, {"clock": 1, "grace_period": 30}, {"max_buckets": 3, "min_window_length": 12}):
        run(stream, "adwin", drift.ADWIN, settings)
    for settings in ({}, {"threshold": 10.0}, {"threshold": 8.0, "mode": "up"}, {"threshold": 8.0, "mode": "down", "alpha": 0.99},
                     {"min_instances": 100, "delta": 0.1, "threshold": 15.0}):
        run(stream, "page-hinkley", drift.PageHinkley, settings)
    if stream in bits:
        for settings in ({}, {"warm_start": 100, "drift_threshold": 2.5}):
            run(stream, "ddm", drift.binary.DDM, settings)
        for settings in ({}, {"two_sided_test": True}, {"drift_confidence": 0.05}):
            run(stream, "hddm-a", drift.binary.HDDMA, settings)

print(json.dumps({"source": "river 0.26.1", "streams": streams, "cases": cases}, separators=(",", ":")))
