"""Makes k-quants.json: what gguf-py reads from the k-quant blocks written here, and the error that llama.cpp's own quantizer leaves on the
same rows, by the library that comes with node-llama-cpp.   (pip install gguf==0.19.0 numpy; run in the repository, after npm install)

`smollm2` are eight rows of ffn_down in each of SmolLM2-135M-Instruct's 30 layers, read from the file that learnd fetches, whose weights lie
on the grid of Q4_1; `smollm2_off_grid` are the same with uniform noise of a quarter of their standard deviation."""

import base64
import ctypes
import hashlib
import json
import os
import platform
import subprocess
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf import GGUFReader
from gguf.quants import dequantize

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
MODEL = Path(os.environ.get("LEARND_CACHE", Path.home() / ".cache/learnd")) / "SmolLM2-135M-Instruct.Q4_1.gguf"
BYTES = {"q4_k": 144, "q5_k": 176, "q6_k": 210}
rng = np.random.default_rng(7)


def halves(rows):
    """Values that a half holds, so that the rows are stored in two bytes each."""
    return np.ascontiguousarray(np.asarray(rows).astype(np.float16).astype(np.float32))


edge = [
    np.zeros(256),
    np.full(256, 0.5),
    np.full(256, -0.5),
    np.linspace(-1, 1, 256),
    np.round(rng.normal(0, 4, 256)) / 2,  # ties
    rng.normal(0, 1e-6, 256),  # steps that are subnormal halves, or none
    rng.normal(0, 3000, 256),
    np.where(np.arange(256) == 77, 65504.0, rng.normal(0, 0.01, 256)),  # one huge value
    np.where(np.arange(256) % 32 == 0, 100.0, rng.normal(0, 0.01, 256)),
    np.abs(rng.normal(1, 0.1, 256)),
    -np.abs(rng.normal(1, 0.1, 256)),
    np.where(np.arange(256) < 32, 0, rng.normal(0, 0.05, 256)),  # one group of zeros
]
sets = {
    "edge": halves(edge),
    "gaussian": halves(rng.standard_normal((16, 512)) * 0.03),
    "heavy_tailed": halves(rng.standard_t(3, size=(16, 512)) * 0.02),
}
stored = list(sets)
rows = [dequantize(t.data, t.tensor_type)[:8] for t in GGUFReader(MODEL).tensors if t.name.endswith("ffn_down.weight")]
sets["smollm2"] = np.concatenate(rows).astype(np.float32)
noise = np.random.default_rng(8).uniform(-0.5, 0.5, sets["smollm2"].shape)
sets["smollm2_off_grid"] = (sets["smollm2"] + noise * sets["smollm2"].std() * 0.25).astype(np.float32)

bins = ROOT / f"node_modules/@node-llama-cpp/linux-{ {'x86_64': 'x64', 'aarch64': 'arm64'}[platform.machine()] }/bins"
library = next(bins.rglob("libggml-base.so"))
quantize_chunk = ctypes.CDLL(str(library)).ggml_quantize_chunk
quantize_chunk.restype = ctypes.c_size_t
quantize_chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p] + [ctypes.c_int64] * 3 + [ctypes.c_void_p]

ENCODE = """
import { readFileSync, writeFileSync } from 'node:fs';
import { quantize } from './src/learn/model/formats/quantize-blocks.ts';
const [type, from, to] = process.argv.slice(-3);
writeFileSync(to, quantize(type, new Float32Array(new Uint8Array(readFileSync(from)).buffer)));
"""


def sha(array):
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def encoded(type, values):
    with tempfile.TemporaryDirectory() as folder:
        values.tofile(f"{folder}/in")
        command = ["node", "--import", "tsx", "--input-type=module", "-e", ENCODE, type, f"{folder}/in", f"{folder}/out"]
        subprocess.run(command, cwd=ROOT, check=True)
        return np.fromfile(f"{folder}/out", np.uint8).reshape(values.shape[0], -1)


def rms(values, blocks, type):
    return float(np.sqrt(np.mean((dequantize(blocks, T[type.upper()]).astype(np.float64) - values) ** 2)))


found = {}
for name, values in sets.items():
    found[name] = {"shape": list(values.shape), "types": {}}
    if name in stored:
        found[name]["halves"] = base64.b64encode(values.astype(np.float16).tobytes()).decode()
    for type, size in BYTES.items():
        theirs = np.zeros((values.shape[0], values.shape[1] // 256 * size), np.uint8)
        count = quantize_chunk(T[type.upper()].value, values.ctypes.data, theirs.ctypes.data, 0, *values.shape, None)
        assert count == theirs.size
        ours = encoded(type, values)
        error, reference = rms(values, ours, type), rms(values, theirs, type)
        found[name]["types"][type] = {
            "blocks_sha256": sha(ours),
            "decoded_sha256": sha(dequantize(ours, T[type.upper()]).astype(np.float32)),
            "rms_error": error,
            "llama_cpp_rms_error": reference,
        }
        print(f"{name} {type}: {error:.4e}, llama.cpp {reference:.4e}, ratio {error / reference if reference else 0:.4f}")
build = json.loads((library.parent / "_nlcBuildMetadata.json").read_text())["buildOptions"]["llamaCpp"]["release"]
package = json.loads((ROOT / "node_modules/node-llama-cpp/package.json").read_text())["version"]
versions = {"gguf": version("gguf"), "numpy": np.__version__, "node-llama-cpp": package, "llama.cpp": build}
(HERE / "k-quants.json").write_text(json.dumps({"versions": versions, "sets": found}, indent=1) + "\n")
