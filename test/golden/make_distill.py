"""Reference values for distillation losses: student and teacher Llamas of transformers, gradients of all the student's weights.

    python test/golden/make_distill.py   (torch 2.8, transformers 4)

Cases: tau^2 KL over the whole vocabulary with a share of labels; the same over the teacher's k likeliest tokens and one event for the
rest; GKD's generalised Jensen-Shannon divergence in probability space at several beta. Weights as in make_pretrain.py, matrices
uniform over a wider range.
"""
import json
from pathlib import Path
import numpy as np
import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

torch.set_num_threads(1)
HERE = Path(__file__).parent
WIDTH = 1.2
CONFIG = dict(vocabSize=48, hidden=16, layers=2, heads=4, kvHeads=2, headDim=4, ffn=[32, 32], contextLength=64, ropeTheta=10000,
              rmsEps=1e-5, tied=True, attentionBias=False)


def make(seed):
    net = LlamaForCausalLM(LlamaConfig(vocab_size=48, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
                                       num_key_value_heads=2, max_position_embeddings=64, rope_theta=10000.0, rms_norm_eps=1e-5,
                                       tie_word_embeddings=True, attn_implementation='eager'))
    x = seed
    for _, p in sorted(net.named_parameters()):
        if p.dim() == 1:
            p.data.fill_(1)
            continue
        values = np.empty(p.numel())
        for i in range(p.numel()):
            x = (1664525 * x + 1013904223) % 2**32
            values[i] = (x / 2**32 - 0.5) * WIDTH
        p.data = torch.tensor(values, dtype=torch.float32).reshape(p.shape)
    return net.double()


def rows(net, sequences):
    out = [net(input_ids=torch.tensor([s])).logits[0, :-1] for s in sequences]
    return torch.cat(out)


def kl(t, s, labels, wanted, tau, k):
    q, p = (t / tau).softmax(-1), (s / tau).softmax(-1)
    if k < t.shape[-1]:
        top = q.topk(k, -1).indices
        q, p = (torch.cat([z.gather(-1, top), 1 - z.gather(-1, top).sum(-1, keepdim=True)], -1) for z in (q, p))
    soft = (q * (q / p).log()).sum(-1)
    return (1 - labels) * tau**2 * soft + labels * torch.nn.functional.cross_entropy(s, wanted, reduction='none')


def gkd(t, s, beta):
    pt, ps = t.softmax(-1), s.softmax(-1)
    kl = lambda a, b: (a * (a / b).log()).sum(-1)
    if beta == 0:
        return kl(pt, ps)
    if beta == 1:
        return kl(ps, pt)
    m = beta * pt + (1 - beta) * ps
    return beta * kl(pt, m) + (1 - beta) * kl(ps, m)


rng = np.random.default_rng(11)
sequences = [rng.integers(0, 48, n).tolist() for n in (9, 6, 12)]
wanted = torch.tensor([t for s in sequences for t in s[1:]])
teacher = make(4242)
with torch.no_grad():
    t = rows(teacher, sequences)
cases = []
for spec in (
    dict(kind='kl', temperature=2, labels=0.3, topK=48),
    dict(kind='kl', temperature=1, labels=0, topK=6),
    dict(kind='kl', temperature=3, labels=0.1, topK=4),
    *(dict(kind='gkd', beta=b) for b in (0, 0.1, 0.5, 1)),
):
    student = make(99)
    s = rows(student, sequences)
    each = kl(t, s, spec['labels'], wanted, spec['temperature'], spec['topK']) if spec['kind'] == 'kl' else gkd(t, s, spec['beta'])
    each.mean().backward()
    cases.append(dict(spec, losses=each.tolist(), gradients={
        n: dict(norm=p.grad.norm().item(), first=p.grad.flatten()[:8].tolist()) for n, p in student.named_parameters()}))
out = dict(versions=dict(torch=torch.__version__, transformers=transformers.__version__), config=CONFIG, width=WIDTH,
           teacher=4242, student=99, sequences=sequences, cases=cases)
(HERE / 'distill.json').write_text(json.dumps(out, separators=(',', ':')) + '\n')
print([sum(c['losses']) / len(c['losses']) for c in cases])
