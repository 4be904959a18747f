"""Reference numbers for the training engine: tiny random Llama models in PyTorch (float64 from float32 weights).

Made with torch 2.5.1, transformers 4.46.3, numpy 1.26: python make_engine.py > engine.json
Arrays are base64 of little-endian float32, row-major. Losses: a sequence's is the mean over its tokens but the first; a
unit's is the mean over its sequences; a batch's is the sum over all scored tokens divided by their number.
"""

import base64, json, sys

import numpy as np
import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

SEQUENCES = [[3, 17, 5, 29, 8, 11, 2], [30, 1, 1, 12], [9, 4, 22, 7, 31, 19, 6, 6, 25, 10]]
UNITS = [[0, 1], [2]]
RANK, ALPHA = 2, 6
TARGETS = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]


def pack(t):
    a = np.asarray(t.detach() if isinstance(t, torch.Tensor) else t, dtype="<f4")
    return {"shape": list(a.shape), "f32": base64.b64encode(a.tobytes()).decode()}


def build(tied, bias, seed):
    torch.manual_seed(seed)
    common = dict(vocab_size=32, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=24,
                  max_position_embeddings=64, rope_theta=10000.0, rms_norm_eps=1e-5, tie_word_embeddings=tied, attn_implementation="eager")
    model = Qwen2ForCausalLM(Qwen2Config(**common)) if bias else LlamaForCausalLM(LlamaConfig(**common))
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(1 + 0.2 * torch.randn_like(p) if "norm" in name else 0.25 * torch.randn_like(p))
    return model.double()


def losses(model):
    out = []
    for s in SEQUENCES:
        ids = torch.tensor([s])
        logits = model(ids).logits[0]
        out.append(torch.nn.functional.cross_entropy(logits[:-1], ids[0, 1:], reduction="none"))
    return out


def grads(loss, params):
    g = torch.autograd.grad(loss, list(params.values()), allow_unused=True)
    return {k: (torch.zeros_like(p) if x is None else x) for (k, p), x in zip(params.items(), g)}


def per_unit(model, params):
    """Unit gradients one at a time, their norms, and the sum clipped (Abadi) at the mean norm."""
    every = []
    for unit in UNITS:
        per_sequence = losses(model)
        every.append(grads(sum(per_sequence[i].mean() for i in unit) / len(unit), params))
    norms = [float(torch.sqrt(sum((g**2).sum() for g in u.values()))) for u in every]
    bound = sum(norms) / len(norms)
    clipped = {k: sum(u[k] * min(1.0, bound / (n + 1e-6)) for u, n in zip(every, norms)) for k in params}
    return {"norms": norms, "bound": bound, "clipped": {k: pack(v) for k, v in clipped.items()}}


class Lora(torch.nn.Module):
    def __init__(self, base, a, b):
        super().__init__()
        self.base, self.a, self.b = base, a, b

    def forward(self, x):
        return self.base(x) + (ALPHA / RANK) * (x @ self.a.T) @ self.b.T


def case(tied, bias, seed):
    model = build(tied, bias, seed)
    params = dict(model.named_parameters())
    out = {"config": {"vocabSize": 32, "hidden": 16, "layers": 2, "heads": 4, "kvHeads": 2, "headDim": 4, "ffn": [24, 24], "contextLength": 64,
                      "ropeTheta": 10000, "rmsEps": 1e-5, "tied": tied, "attentionBias": bias},
           "weights": {k: pack(p) for k, p in params.items()}}
    out["logits"] = [pack(model(torch.tensor([s])).logits[0]) for s in SEQUENCES]
    ls = losses(model)
    out["nll"] = [float(x.sum()) for x in ls]
    out["first"] = [float(x[0]) for x in ls]
    states = [model(torch.tensor([s]), output_hidden_states=True).hidden_states[1][0] for s in SEQUENCES]
    out["features1"] = [pack((h * torch.rsqrt((h**2).mean(-1, keepdim=True) + 1e-5)).mean(0)) for h in states]
    out["influence0"] = float(1 - torch.cat([torch.nn.functional.cosine_similarity(*pair, dim=-1) for pair in
        [model(torch.tensor([s]), output_hidden_states=True).hidden_states[0:2] for s in SEQUENCES]], dim=1).mean())
    out["gradients"] = {k: pack(g) for k, g in grads(torch.cat(ls).mean(), params).items()}
    out["fullUnits"] = per_unit(model, params)
    norms = {k: p for k, p in params.items() if k == "model.norm.weight" or ("layers.1." in k and "norm" in k)}
    out["normUnits"] = per_unit(model, norms)

    # AdamW, three steps on the batch loss; weight decay on matrices only.
    trained = build(tied, bias, seed)
    groups = [{"params": [p for p in trained.parameters() if (p.dim() > 1) == decays], "weight_decay": 0.1 * decays} for decays in (True, False)]
    optimizer = torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.95), eps=1e-8)
    for _ in range(3):
        optimizer.zero_grad()
        torch.cat(losses(trained)).mean().backward()
        optimizer.step()
    out["adamw3"] = {k: pack(p) for k, p in trained.named_parameters()}

    torch.manual_seed(seed + 100)
    pairs = {}
    for layer in range(2):
        for target in TARGETS:
            parent = model.model.layers[layer].get_submodule(target.split(".")[0])
            base = getattr(parent, target.split(".")[1])
            a = torch.nn.Parameter((0.3 * torch.randn(RANK, base.in_features)).float().double())
            b = torch.nn.Parameter((0.3 * torch.randn(base.out_features, RANK)).float().double())
            setattr(parent, target.split(".")[1], Lora(base, a, b))
            pairs[f"model.layers.{layer}.{target}.weight"] = (a, b)
    flat = {f"{n}.{side}": t for n, (a, b) in pairs.items() for side, t in (("lora_a", a), ("lora_b", b))}
    out["lora"] = {"rank": RANK, "alpha": ALPHA, "pairs": {n: {"a": pack(a), "b": pack(b)} for n, (a, b) in pairs.items()},
                   "nll": [float(x.sum()) for x in losses(model)],
                   "gradients": {k: pack(g) for k, g in grads(torch.cat(losses(model)).mean(), flat).items()},
                   "units": per_unit(model, flat)}
    return out


json.dump({"made_with": {"torch": torch.__version__, "transformers": transformers.__version__, "numpy": np.__version__},
           "sequences": SEQUENCES, "units": UNITS, "cases": {"tied": case(True, False, 1), "untied-bias": case(False, True, 2)}}, sys.stdout)
