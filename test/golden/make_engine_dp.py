"""Ten optimizer steps in PyTorch, and Opacus' per-example norms and clipped sums, on the models of engine.json (float64).

Made with torch 2.8.0, opacus 1.6.0, transformers 5.24.0, numpy 2.4.6: python make_engine_dp.py engine.json > engine-dp.json
The Opacus model is written with the modules that Opacus knows and takes the untied model's weights; its logits must equal
those of transformers (1e-6), and its two ways (hooks and ghost clipping) must agree (1e-6), before anything is written.
"""

import base64, json, sys

import numpy as np
import opacus
import torch
import transformers
from opacus import GradSampleModule
from opacus.grad_sample.grad_sample_module_fast_gradient_clipping import GradSampleModuleFastGradientClipping
from torch import nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

golden = json.load(open(sys.argv[1]))
SEQUENCES = golden["sequences"]
STEPS = 10


def pack(t):
    a = np.asarray(t.detach(), dtype="<f4")
    return {"shape": list(a.shape), "f32": base64.b64encode(a.tobytes()).decode()}


def unpack(p):
    return torch.from_numpy(np.frombuffer(base64.b64decode(p["f32"]), dtype="<f4").reshape(p["shape"]).copy()).double()


def reference(case):
    c = case["config"]
    common = dict(vocab_size=c["vocabSize"], hidden_size=c["hidden"], num_hidden_layers=c["layers"], num_attention_heads=c["heads"],
                  num_key_value_heads=c["kvHeads"], intermediate_size=c["ffn"][0], max_position_embeddings=c["contextLength"],
                  rms_norm_eps=c["rmsEps"], tie_word_embeddings=c["tied"], attn_implementation="eager")
    model = Qwen2ForCausalLM(Qwen2Config(**common)) if c["attentionBias"] else LlamaForCausalLM(LlamaConfig(**common))
    model = model.double()
    missing, unexpected = model.load_state_dict({k: unpack(p) for k, p in case["weights"].items()}, strict=False)
    assert not unexpected and all(name == "lm_head.weight" for name in missing), (missing, unexpected)
    return model


def batch_loss(model):
    total, count = 0, 0
    for s in SEQUENCES:
        ids = torch.tensor([s])
        total = total + F.cross_entropy(model(ids).logits[0][:-1], ids[0, 1:], reduction="sum")
        count += len(s) - 1
    return total / count


def ten_steps(case, make):
    model = reference(case)
    optimizer = make(model)
    for _ in range(STEPS):
        optimizer.zero_grad()
        batch_loss(model).backward()
        optimizer.step()
    return {name: pack(p) for name, p in model.named_parameters()}


def adamw(model):
    groups = [{"params": [p for p in model.parameters() if (p.dim() > 1) == decays], "weight_decay": 0.1 * decays} for decays in (True, False)]
    return torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.95), eps=1e-8)


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        h, d, f, bias = c["hidden"], c["headDim"], c["ffn"][0], c["attentionBias"]
        self.c = c
        self.input_layernorm, self.post_attention_layernorm = nn.RMSNorm(h, eps=c["rmsEps"]), nn.RMSNorm(h, eps=c["rmsEps"])
        self.self_attn = nn.ModuleDict({"q_proj": nn.Linear(h, c["heads"] * d, bias), "k_proj": nn.Linear(h, c["kvHeads"] * d, bias),
                                        "v_proj": nn.Linear(h, c["kvHeads"] * d, bias), "o_proj": nn.Linear(c["heads"] * d, h, False)})
        self.mlp = nn.ModuleDict({"gate_proj": nn.Linear(h, f, False), "up_proj": nn.Linear(h, f, False), "down_proj": nn.Linear(f, h, False)})

    def forward(self, x, cos, sin):
        c, a = self.c, self.self_attn
        b, t, _ = x.shape
        heads = lambda y, n: y.view(b, t, n, c["headDim"]).transpose(1, 2)
        rotate = lambda y: y * cos + torch.cat((-y.chunk(2, -1)[1], y.chunk(2, -1)[0]), -1) * sin
        n = self.input_layernorm(x)
        q, k, v = rotate(heads(a["q_proj"](n), c["heads"])), rotate(heads(a["k_proj"](n), c["kvHeads"])), heads(a["v_proj"](n), c["kvHeads"])
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + a["o_proj"](y.transpose(1, 2).reshape(b, t, -1))
        n = self.post_attention_layernorm(x)
        return x + self.mlp["down_proj"](F.silu(self.mlp["gate_proj"](n)) * self.mlp["up_proj"](n))


class Plain(nn.Module):
    def __init__(self, c, length):
        super().__init__()
        self.model = nn.ModuleDict({"embed_tokens": nn.Embedding(c["vocabSize"], c["hidden"]),
                                    "layers": nn.ModuleList(Block(c) for _ in range(c["layers"])), "norm": nn.RMSNorm(c["hidden"], eps=c["rmsEps"])})
        self.lm_head = nn.Linear(c["hidden"], c["vocabSize"], bias=False)
        angle = torch.arange(length)[:, None].double() * c["ropeTheta"] ** (-torch.arange(0, c["headDim"], 2).double() / c["headDim"])
        self.cos, self.sin = torch.cat((angle, angle), -1).cos(), torch.cat((angle, angle), -1).sin()

    def forward(self, ids):
        x = self.model["embed_tokens"](ids)
        for block in self.model["layers"]:
            x = block(x, self.cos, self.sin)
        return self.lm_head(self.model["norm"](x))


def with_opacus(case):
    c = case["config"]
    length = max(map(len, SEQUENCES))
    ids = torch.tensor([s + [0] * (length - len(s)) for s in SEQUENCES])
    counts = torch.tensor([len(s) - 1 for s in SEQUENCES])
    scored = torch.arange(length - 1)[None] < counts[:, None]

    def fresh():
        model = Plain(c, length).double()
        model.load_state_dict({k: unpack(p) for k, p in case["weights"].items()})
        return model

    whole = reference(case)
    for s, row in zip(SEQUENCES, fresh()(ids)):
        assert torch.allclose(row[: len(s)], whole(torch.tensor([s])).logits[0], atol=1e-6)

    def losses(model):
        each = F.cross_entropy(model(ids)[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")
        return (each * scored).sum(1) / counts

    hooks = GradSampleModule(fresh(), loss_reduction="sum")
    losses(hooks).sum().backward()
    samples = {name: p.grad_sample for name, p in hooks._module.named_parameters()}
    norms = torch.sqrt(sum((g.flatten(1) ** 2).sum(1) for g in samples.values()))
    ghost = GradSampleModuleFastGradientClipping(fresh(), loss_reduction="sum", max_grad_norm=1.0, use_ghost_clipping=True)
    losses(ghost).sum().backward()
    assert torch.allclose(ghost.get_norm_sample(), norms, rtol=1e-6), (ghost.get_norm_sample(), norms)
    bound = float(norms.mean())
    factors = (bound / (norms + 1e-6)).clamp(max=1.0)
    return {"norms": norms.tolist(), "bound": bound, "clipped": {k: pack(torch.einsum("b,b...->...", factors, g)) for k, g in samples.items()}}


out = {"made_with": {"torch": torch.__version__, "opacus": opacus.__version__, "transformers": transformers.__version__, "numpy": np.__version__},
       "steps": STEPS, "cases": {name: {"adamw": ten_steps(case, adamw), "sgd": ten_steps(case, sgd)} for name, case in golden["cases"].items()},
       "opacus": with_opacus(golden["cases"]["untied-bias"])}
json.dump(out, sys.stdout)
