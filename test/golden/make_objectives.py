"""Objectives: TRL's losses on fixed log-probabilities with their derivatives, and gradients through a model in PyTorch.

trl 1.16.0, torch 2.8.0, transformers 5.24.0; float64. TRL's own loss methods run with the log-probabilities in place of a model's.
The model is the tied one of engine.json. Run in this folder: python make_objectives.py > objectives.json
"""
import base64
import copy
import json
from collections import defaultdict
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from trl import DPOTrainer, KTOTrainer
from trl.experimental.cpo import CPOTrainer

rng = np.random.default_rng(11)


def stub(**attributes):
    """What a TRL loss asks of its trainer."""
    identity = SimpleNamespace(gather=lambda t: t, gather_for_metrics=lambda t: t, device=torch.device("cpu"))
    trainer = MagicMock(accelerator=identity, _metrics=defaultdict(lambda: defaultdict(list)), **attributes)
    trainer._total_train_tokens, trainer._tp_size = 0, 1
    trainer.aux_loss_enabled = trainer.use_weighting = trainer.calculate_KL = False
    trainer._compute_kl_logps = lambda *a: None
    trainer.precompute_ref_logps, trainer.ld_alpha = True, None
    return trainer


def given(log_probs):
    """A model whose sequences have one scored token each, of the log-probability given."""
    fake = log_probs.unsqueeze(1)
    zero = torch.zeros_like(fake).detach()
    return lambda **_: SimpleNamespace(log_probs=fake, entropy=zero, mean_logits=zero, is_top1=zero.bool())


def batch(n):
    return {"input_ids": torch.zeros(n, 2, dtype=torch.long), "attention_mask": torch.ones(n, 2, dtype=torch.long), "completion_mask": torch.tensor([[0, 1]] * n)}


def with_slopes(loss, log_probs):
    (slopes,) = torch.autograd.grad(loss, log_probs)
    return {"loss": float(loss), "slopes": slopes.tolist()}


dpo, simpo, kto = [], [], []
for _ in range(12):
    lp = torch.tensor(-rng.gamma(4, 6, 2), requires_grad=True)
    ref = torch.tensor(lp.detach().numpy() + rng.normal(0, 8, 2))
    beta = float(rng.choice([0.05, 0.1, 0.5]))
    trainer = stub(beta=beta, loss_types=["sigmoid"], loss_weights=[1.0], f_divergence_type="reverse_kl")
    inputs = batch(2) | {"ref_chosen_logps": ref[:1], "ref_rejected_logps": ref[1:]}
    loss = DPOTrainer._compute_loss(trainer, given(lp), inputs, False)
    dpo.append({"lp": lp.tolist(), "ref": ref.tolist(), "beta": beta, **with_slopes(loss, lp)})

    lp = torch.tensor(-rng.gamma(4, 6, 2), requires_grad=True)
    tokens = rng.integers(1, 40, 2)
    beta, gamma = float(rng.choice([2.0, 2.5])), float(rng.choice([0.5, 1.0, 1.5]))
    trainer = stub(alpha=0.0, loss_type="simpo", simpo_gamma=gamma, beta=beta, label_smoothing=0.0)
    mean = lp / torch.tensor(tokens)
    loss = CPOTrainer.cpo_loss(trainer, mean[:1], mean[1:])[0].mean()
    simpo.append({"lp": lp.tolist(), "tokens": tokens.tolist(), "beta": beta, "gamma": gamma, **with_slopes(loss, lp)})

    lp = torch.tensor(-rng.gamma(4, 6, 1), requires_grad=True)
    ref = torch.tensor(lp.detach().numpy() + rng.normal(0, 8, 1))
    liked, beta = bool(rng.integers(2)), float(rng.choice([0.05, 0.1, 0.5]))
    trainer = stub(beta=beta, loss_type="apo_zero_unpaired", desirable_weight=1.0, undesirable_weight=1.0)
    inputs = batch(1) | {"label": torch.tensor([liked]), "ref_logps": ref}
    loss = KTOTrainer._compute_loss(trainer, given(lp), inputs, False)
    kto.append({"lp": lp.tolist(), "ref": ref.tolist(), "beta": beta, "liked": liked, **with_slopes(loss, lp)})

# Gradients of units of pairs, of rated answers and of a choice, with respect to every weight.
engine = json.load(open("engine.json"))["cases"]["tied"]


def unpack(packed):
    return torch.tensor(np.frombuffer(base64.b64decode(packed["f32"]), "<f4").reshape(packed["shape"]).astype(np.float64))


def pack(t):
    a = t.detach().numpy().astype("<f4")
    return {"shape": list(a.shape), "f32": base64.b64encode(a.tobytes()).decode()}


model = LlamaForCausalLM(LlamaConfig(vocab_size=32, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=24, max_position_embeddings=64, rope_theta=10000.0, rms_norm_eps=1e-5, tie_word_embeddings=True, attn_implementation="eager")).double()
model.load_state_dict({name: unpack(w) for name, w in engine["weights"].items()}, strict=False)
params = {name: p for name, p in model.named_parameters() if "norm" in name or "layers.1.mlp" in name}


def log_probability(prompt, answer):
    ids = torch.tensor([prompt + answer])
    lp = torch.log_softmax(model(ids).logits[0, :-1], -1)
    return lp[torch.arange(len(prompt) - 1, ids.shape[1] - 1), ids[0, len(prompt):]].sum()


PAIRS = [
    {"prompt": [3, 17, 5], "answers": [[29, 8, 11, 2], [12, 2]], "ref": [-13.0, -8.5]},
    {"prompt": [30, 1], "answers": [[12, 7], [9, 4, 22, 7, 31]], "ref": [-7.0, -18.0]},
]
RATED = [
    {"prompt": [3, 17, 5], "answer": [29, 8, 11, 2], "liked": True, "ref": -12.0},
    {"prompt": [9, 4, 22, 7], "answer": [31, 19, 6], "liked": False, "ref": -11.0},
]
sigmoid = torch.nn.functional.logsigmoid


def gradient(loss):
    found = torch.autograd.grad(loss, list(params.values()))
    return {"loss": float(loss), "norm": float(torch.sqrt(sum((g**2).sum() for g in found))), "gradients": {k: pack(g) for k, g in zip(params, found)}}


def pair_loss(pair):
    w, l = (log_probability(pair["prompt"], a) for a in pair["answers"])
    return -sigmoid(0.1 * ((w - pair["ref"][0]) - (l - pair["ref"][1])))


def rated_loss(r):
    s = torch.sigmoid(0.1 * (log_probability(r["prompt"], r["answer"]) - r["ref"]))
    return 1 - s if r["liked"] else s


def divergence(k):
    """Mean KL(teacher || model) a token; the teacher is the model before its norm was scaled, kept as k tokens and the rest."""
    total = []
    for tokens in SEQUENCES:
        ids = torch.tensor([tokens])
        q, lp = torch.softmax(teacher(ids).logits[0, :-1], -1).detach(), torch.log_softmax(model(ids).logits[0, :-1], -1)
        top = q.topk(k, -1)
        kept = (top.values * (top.values.log() - lp.gather(1, top.indices))).sum(-1)
        if k < q.shape[-1]:
            rest_q, rest_p = 1 - top.values.sum(-1), 1 - lp.gather(1, top.indices).exp().sum(-1)
            kept = kept + rest_q * (rest_q / rest_p).log()
        total.append(kept)
    return torch.cat(total).mean()


SEQUENCES = [[3, 17, 5, 29, 8, 11, 2], [30, 1, 1, 12]]
teacher = copy.deepcopy(model)
unit = sum(pair_loss(p) for p in PAIRS) / len(PAIRS)
units = {
    "pairUnit": gradient(unit),
    "ratedUnit": gradient(sum(rated_loss(r) for r in RATED) / len(RATED)),
}
with torch.no_grad():
    model.model.norm.weight *= 0.7
print(json.dumps({
    "dpo": dpo, "simpo": simpo, "kto": kto,
    "pairs": PAIRS, "rated": RATED,
    **units,
    "sequences": SEQUENCES,
    "divergence": {k: gradient(divergence(k)) for k in (5, 32)},
}))
