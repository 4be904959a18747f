"""Makes gguf.json: what gguf-py writes and reads, for the readers and writers here.   (pip install gguf==0.19.0 numpy)"""

import base64
import json
import tempfile
from importlib.metadata import version
from pathlib import Path


import numpy as np
from gguf import GGMLQuantizationType as T
from gguf import GGUFReader, GGUFValueType, GGUFWriter
from gguf.quants import dequantize, quantize

HERE = Path(__file__).parent
rng = np.random.default_rng(20)


def b64(array):
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


# Rows of 256: ordinary weights, then what rounding gets wrong first.
rows = [rng.normal(0, 0.05, 256) for _ in range(6)] + [
    np.zeros(256),
    np.full(256, 0.5),
    np.linspace(-1, 1, 256),
    np.round(rng.normal(0, 4, 256)) / 2,  # ties
    rng.normal(0, 1e-7, 256),  # scales that are subnormal halves
    rng.normal(0, 3000, 256),
    np.where(np.arange(256) % 32 == 0, 100.0, rng.normal(0, 0.01, 256)),  # outliers
    -np.abs(rng.normal(1, 0.1, 256)),
]
values = np.array(rows, dtype=np.float32)
blocks = {t.name.lower(): b64(quantize(values, t)) for t in [T.F32, T.F16, T.BF16, T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0]}

# Any bytes are k-quant blocks; the scales (halves) are set to ordinary numbers.
decoded = {}
for t, size, scales in [(T.Q4_K, 144, (0, 2)), (T.Q5_K, 176, (0, 2)), (T.Q6_K, 210, (208,)), (T.Q4_0, 18, (0,)), (T.Q4_1, 20, (0, 2)),
                        (T.Q5_0, 22, (0,)), (T.Q5_1, 24, (0, 2)), (T.Q8_0, 34, (0,))]:
    raw = rng.integers(0, 256, (4, size), dtype=np.uint8)
    for at in scales:
        raw[:, at : at + 2] = rng.normal(0, 0.02, 4).astype(np.float16).view(np.uint8).reshape(4, 2)
    decoded[t.name.lower()] = {"bytes": b64(raw), "values": b64(dequantize(raw, t).astype(np.float32))}

halves = np.concatenate([rng.normal(0, 10.0 ** rng.integers(-9, 6, 500), 500), [65504, 65519.99, 65520, 2**-24, 2**-25, 3 * 2**-25, 2**-14, 0.0, -0.0]])
with np.errstate(over="ignore"):
    half = {"values": b64(halves.astype(np.float32)), "bits": b64(halves.astype(np.float32).astype(np.float16))}

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "small.gguf"
    writer = GGUFWriter(path, "test")
    writer.add_uint8("a.u8", 200)
    writer.add_int8("a.i8", -100)
    writer.add_uint16("a.u16", 60000)
    writer.add_int16("a.i16", -30000)
    writer.add_uint32("a.u32", 4000000000)
    writer.add_int32("a.i32", -2000000000)
    writer.add_uint64("a.u64", 2**63)
    writer.add_int64("a.i64", -(2**40))
    writer.add_float32("a.f32", 0.1)
    writer.add_float64("a.f64", 0.1)
    writer.add_bool("a.yes", True)
    writer.add_string("a.text", "na\u00efve \u65e5\u672c\ufeff")
    writer.add_array("a.words", ["one", "", "\U0001f600"])
    writer.add_array("a.counts", [1, 2, 3])
    writer.add_key_value("a.nested", [[1, 2], [3]], GGUFValueType.ARRAY)
    writer.add_tensor("x", values[:2])
    writer.add_tensor("y", values[:3].astype(np.float16))
    writer.add_tensor("z", quantize(values, T.Q8_0), raw_dtype=T.Q8_0)
    writer.add_tensor("v", np.arange(7, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = base64.b64encode(path.read_bytes()).decode()
    assert len(GGUFReader(path).tensors) == 4

out = {
    "versions": {"gguf": version("gguf"), "numpy": np.__version__},
    "columns": 256,
    "values": b64(values),
    "blocks": blocks,
    "decoded": decoded,
    "half": half,
    "file": file,
}
(HERE / "gguf.json").write_text(json.dumps(out, separators=(",", ":")) + "\n")
