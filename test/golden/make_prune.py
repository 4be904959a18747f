"""Reference numbers for pruning: a tiny random Llama in PyTorch (float64 from float32 weights), scores in numpy.

Made with torch 2.8.0, transformers 5.24.0, numpy 2.4.6: python make_prune.py > prune.json
Arrays are base64 of little-endian float32, row-major. Statistics are over all tokens of all sequences. Formulas: FLAP lib/prune.py
(WIFV, WIFN, the bias of what is pruned), LLM-Pruner's L2 group, ShortGPT's block influence, SLEB's greedy drop, Wanda lib/prune.py.
"""

import base64, copy, json

import numpy as np
import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

LAYERS, FFN, KEEP = 5, 64, 32
torch.manual_seed(11)
rng = np.random.default_rng(11)
SEQUENCES = [[int(t) for t in rng.integers(0, 32, n)] for n in (12, 5, 9, 12, 1)]


def pack(t):
    a = np.asarray(t.detach() if isinstance(t, torch.Tensor) else t, dtype="<f4")
    return {"shape": list(a.shape), "f32": base64.b64encode(a.tobytes()).decode()}


def build():
    config = LlamaConfig(vocab_size=32, hidden_size=16, num_hidden_layers=LAYERS, num_attention_heads=4, num_key_value_heads=2, intermediate_size=FFN,
                         max_position_embeddings=64, rope_theta=10000.0, rms_norm_eps=1e-5, tie_word_embeddings=True, attn_implementation="eager")
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(1 + 0.2 * torch.randn_like(p) if "norm" in name else 0.25 * torch.randn_like(p))
    return model.double().eval()


@torch.no_grad()
def run(model, hooked=()):
    """Inputs of the modules named, all sequences' tokens in a row; and the summed loss."""
    seen, handles, loss, tokens = {name: [] for name in hooked}, [], 0.0, 0
    modules = dict(model.named_modules())
    for name in hooked:
        handles.append(modules[name].register_forward_pre_hook(lambda m, a, k=name: seen[k].append(a[0][0].clone()) if a else None, with_kwargs=False))
    for s in SEQUENCES:
        ids = torch.tensor([s])
        logits = model(input_ids=ids, use_cache=False).logits[0]
        if len(s) > 1:
            loss += float(torch.nn.functional.cross_entropy(logits[:-1], ids[0, 1:], reduction="sum"))
            tokens += len(s) - 1
    for h in handles:
        h.remove()
    return {k: torch.cat(v).numpy() for k, v in seen.items()}, loss / tokens


@torch.no_grad()
def influence(model):
    states = [[] for _ in range(LAYERS + 1)]
    handles = [layer.register_forward_pre_hook(lambda m, a, n=n: states[n].append(a[0][0].clone())) for n, layer in enumerate(model.model.layers)]
    handles.append(model.model.norm.register_forward_pre_hook(lambda m, a: states[LAYERS].append(a[0][0].clone())))
    for s in SEQUENCES:
        model(input_ids=torch.tensor([s]), use_cache=False)
    for h in handles:
        h.remove()
    h = [torch.cat(s) for s in states]
    return [float(1 - torch.nn.functional.cosine_similarity(h[n], h[n + 1], dim=-1).mean()) for n in range(LAYERS)]


def without(model, drop):
    small = copy.deepcopy(model)
    small.model.layers = torch.nn.ModuleList([l for n, l in enumerate(small.model.layers) if n not in drop])
    for n, layer in enumerate(small.model.layers):
        layer.self_attn.layer_idx = n
    small.config.num_hidden_layers = len(small.model.layers)
    return small


def zeros(w):
    return [[int(j) for j in np.nonzero(row == 0)[0]] for row in w.numpy()]


LINEAR = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]


@torch.no_grad()
def wanda(model, sparsity):
    """Block by block on pruned inputs; a row's lowest |W| ||X|| become zero, or 2 of every 4."""
    model = copy.deepcopy(model)
    for n in range(LAYERS):
        names = {kind: f"model.layers.{n}.{kind}" for kind in LINEAR}
        inputs, _ = run(model, names.values())
        for kind, name in names.items():
            w = dict(model.named_modules())[name].weight
            metric = w.abs() * torch.sqrt(torch.tensor((inputs[name] ** 2).sum(0)))[None]
            if sparsity == "2:4":
                for j in range(0, w.shape[1], 4):
                    w.scatter_(1, j + torch.topk(metric[:, j : j + 4], 2, dim=1, largest=False)[1], 0)
            else:
                w.scatter_(1, torch.sort(metric, dim=-1, stable=True)[1][:, : int(w.shape[1] * sparsity)], 0)
    _, nll = run(model)
    return {"nll": nll, "q2": zeros(model.model.layers[2].self_attn.q_proj.weight), "down3": zeros(model.model.layers[3].mlp.down_proj.weight)}


model = build()
out = {"versions": {"torch": torch.__version__, "transformers": transformers.__version__, "numpy": np.__version__}, "sequences": SEQUENCES,
       "config": {"vocabSize": 32, "hidden": 16, "layers": LAYERS, "heads": 4, "kvHeads": 2, "headDim": 4, "ffn": [FFN] * LAYERS, "contextLength": 64,
                  "ropeTheta": 10000, "rmsEps": 1e-5, "tied": True, "attentionBias": False},
       "weights": {k: pack(p) for k, p in model.named_parameters()}}
downs = [f"model.layers.{n}.mlp.down_proj" for n in range(LAYERS)]
inner, out["nll"] = run(model, downs)
params = {k: p.detach().numpy() for k, p in model.named_parameters()}
layers = []
for n, name in enumerate(downs):
    x, w = inner[name], params[f"{name}.weight"]
    gate, up = params[f"model.layers.{n}.mlp.gate_proj.weight"], params[f"model.layers.{n}.mlp.up_proj.weight"]
    flap = x.var(0) * (w**2).sum(0)
    layers.append({"meanAbs": pack(np.abs(x).mean(0)), "mean": pack(x.mean(0)), "variance": pack(x.var(0)), "flap": pack(flap),
                   "wanda": pack((np.abs(w) * np.sqrt((x**2).mean(0))[None]).mean(0)),
                   "magnitude": pack(np.sqrt((gate**2).sum(1) + (up**2).sum(1) + (w**2).sum(0))),
                   "standard": pack((flap - flap.mean()) / flap.std(ddof=1)),
                   "kept": sorted(int(j) for j in np.argsort(-flap, kind="stable")[:KEEP])})
    gone = np.setdiff1d(np.arange(FFN), layers[-1]["kept"])
    layers[-1]["bias"] = pack(w[:, gone] @ x.mean(0)[gone])
out["layers"] = layers
out["influence"] = influence(model)


@torch.no_grad()
def flap_pruned():
    """The same computation on the whole model: each pruned neuron always gives its mean."""
    handles = []
    for n, layer in enumerate(model.model.layers):
        mean = torch.tensor(inner[downs[n]].mean(0))
        keep = torch.zeros(FFN, dtype=torch.bool)
        keep[layers[n]["kept"]] = True
        handles.append(layer.mlp.down_proj.register_forward_pre_hook(lambda m, a, k=keep, u=mean: (torch.where(k, a[0], u),)))
    _, nll = run(model)
    for h in handles:
        h.remove()
    return nll


out["flapNll"] = flap_pruned()
dropped, steps = [], []
for _ in range(2):
    tried = {n: run(without(model, dropped + [n]))[1] for n in range(1, LAYERS - 1) if n not in dropped}
    best = min(tried, key=tried.get)
    dropped.append(best)
    steps.append({"layer": best, "nll": tried[best]})
out["sleb"] = steps
out["wanda"] = {"0.5": wanda(model, 0.5), "2:4": wanda(model, "2:4")}
flat = np.abs(params["model.layers.2.self_attn.q_proj.weight"]).ravel()
mask = np.zeros_like(flat, dtype=bool)
mask[np.argsort(flat, kind="stable")[: flat.size // 2]] = True
out["magnitude"] = {"q2": [[int(j) for j in np.nonzero(row)[0]] for row in mask.reshape(16, 16)]}
print(json.dumps(out, separators=(",", ":")))
