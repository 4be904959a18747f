"""Reference values for pre-training: a Llama of transformers on packed documents, its 4-D attention mask and position ids restarting.

    python test/golden/make_pretrain.py   (torch 2.8, transformers 4)

1. 100 steps of AdamW on real sentences: losses, and bits per byte on sentences not trained on.
2. Gradients of masked language modelling (both sides seen) and of masked next-token prediction, of two packed documents.
Weights come from a linear congruential generator that the test runs, too.
"""
import json, math, re, sys
from pathlib import Path
import numpy as np
import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
torch.set_num_threads(1)
HERE = Path(__file__).parent
SENTENCES = [
    m.group(1).replace("\\'", "'")
    for m in re.finditer(r"^  (?:'(.*)'|\"(.*)\"),$", (HERE / '../../src/learn/training/public-text.ts').read_text(), re.M)
    if m.group(1)
]


def fill(model, seed):
    """In the order of the names sorted; scales 1, matrices uniform with standard deviation about 0.05."""
    x = seed
    for name, p in sorted(model.named_parameters()):
        if p.dim() == 1:
            p.data.fill_(1)
            continue
        values = np.empty(p.numel())
        for i in range(p.numel()):
            x = (1664525 * x + 1013904223) % 2**32
            values[i] = (x / 2**32 - 0.5) * 0.16
        p.data = torch.tensor(values, dtype=torch.float32).reshape(p.shape)


def make(config, seed):
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config['vocabSize'],
            hidden_size=config['hidden'],
            intermediate_size=config['ffn'][0],
            num_hidden_layers=config['layers'],
            num_attention_heads=config['heads'],
            num_key_value_heads=config['kvHeads'],
            max_position_embeddings=config['contextLength'],
            rope_theta=config['ropeTheta'],
            rms_norm_eps=config['rmsEps'],
            tie_word_embeddings=config['tied'],
            attn_implementation='eager',
        )
    )
    fill(model, seed)
    return model


def config(vocab, hidden, ffn, layers, tied):
    return dict(
        vocabSize=vocab, hidden=hidden, layers=layers, heads=4, kvHeads=2, headDim=hidden // 4, ffn=[ffn] * layers,
        contextLength=128, ropeTheta=10000, rmsEps=1e-5, tied=tied, attentionBias=False,
    )


def batch_of(examples):
    """examples: (tokens, segments, targets, bidirectional), targets at the output that predicts them, -1 for none."""
    length = max(len(e[0]) for e in examples)
    ids = np.zeros((len(examples), length), dtype=np.int64)
    positions = np.zeros_like(ids)
    labels = np.full_like(ids, -100)
    mask = np.full((len(examples), 1, length, length), np.finfo(np.float32).min, dtype=np.float32)
    for b, (tokens, segments, targets, both) in enumerate(examples):
        starts = {}
        for t, token in enumerate(tokens):
            ids[b, t] = token
            starts.setdefault(segments[t], t)
            positions[b, t] = t - starts[segments[t]]
            if targets[t] >= 0:
                labels[b, t] = targets[t]
            for s in range(len(tokens) if both else t + 1):
                if segments[s] == segments[t]:
                    mask[b, 0, t, s] = 0
        for t in range(len(tokens), length):
            mask[b, 0, t, t] = 0
    return [torch.from_numpy(a) for a in (ids, mask, positions, labels)]


def loss_of(model, batch, reduction='mean'):
    ids, mask, positions, labels = batch
    logits = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction=reduction)


def pack(documents, length, separator):
    """A document that is cut goes on from its last token."""
    out, tokens, segments = [], [], []

    def close():
        nonlocal tokens, segments
        if any(a == b for a, b in zip(segments, segments[1:])):
            out.append((tokens, segments))
        tokens, segments = [], []

    for number, document in enumerate(documents):
        whole = [separator, *document, separator]
        at = 0
        while at < len(whole):
            part = whole[at:at + length - len(tokens)]
            if len(part) > 1 or not tokens:
                tokens += part
                segments += [number] * len(part)
                at += len(part)
                if at < len(whole):
                    at -= 1
                elif len(tokens) < length:
                    break
            close()
    close()
    return out


def causal(packed):
    return [
        (tokens, segments, [tokens[t + 1] if t + 1 < len(tokens) and segments[t + 1] == segments[t] else -1 for t in range(len(tokens))], False)
        for tokens, segments in packed
    ]


SEPARATOR = 256
train_text, held_text = SENTENCES[:20], SENTENCES[20:40]
shape = config(258, 64, 160, 2, True)
model = make(shape, 12345)
examples = batch_of(causal(pack([list(s.encode()) for s in train_text], 64, SEPARATOR)))
held = batch_of(causal(pack([list(s.encode()) for s in held_text], 64, SEPARATOR)))
STEPS, RATE, WARMUP, FLOOR = 100, 3e-3, 10, 0.1
decayed = [p for p in model.parameters() if p.dim() > 1]
plain = [p for p in model.parameters() if p.dim() == 1]
optimizer = torch.optim.AdamW(
    [dict(params=decayed, weight_decay=0.1), dict(params=plain, weight_decay=0)], lr=RATE, betas=(0.9, 0.95), eps=1e-8
)


def rate(step):
    if step < WARMUP:
        return (step + 1) / WARMUP
    return FLOOR + (1 - FLOOR) * (1 + math.cos(math.pi * (step - WARMUP) / (STEPS - WARMUP))) / 2


losses = []
for step in range(STEPS):
    for group in optimizer.param_groups:
        group['lr'] = RATE * rate(step)
    optimizer.zero_grad()
    loss = loss_of(model, examples)
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
with torch.no_grad():
    nll = loss_of(model, held, 'sum').item()
bits = nll / math.log(2) / sum(len(s.encode()) for s in held_text)

small = config(40, 16, 32, 2, False)
rng = np.random.default_rng(5)
cases = []
for shifted, both in ((False, True), (True, False), (True, True)):
    tokens = rng.integers(0, 38, 14).tolist()
    segments = [0] * 6 + [1] * 8
    other = (rng.integers(0, 38, 9).tolist(), [0] * 9)
    batch = []
    for t, s in ((tokens, segments), other):
        seen, targets = list(t), [-1] * len(t)
        for at in (2, 4, 7, 8):
            seen[at] = 39
            targets[at - 1 if shifted else at] = t[at]
        batch.append((seen, s, targets, both))
    net = make(small, 777)
    loss = loss_of(net, batch_of(batch))
    loss.backward()
    cases.append(
        dict(
            examples=[dict(tokens=t, segments=s, targets=g, bidirectional=b) for t, s, g, b in batch],
            loss=loss.item(),
            gradients={
                name: dict(norm=p.grad.norm().item(), first=p.grad.flatten()[:8].tolist(), sum=p.grad.double().sum().item())
                for name, p in net.named_parameters()
            },
        )
    )
out = dict(
    versions=dict(torch=torch.__version__, transformers=transformers.__version__),
    run=dict(
        config=shape, seed=12345, train=train_text, held=held_text, sequence=64, separator=SEPARATOR, steps=STEPS, rate=RATE,
        warmup=WARMUP, floor=FLOOR, losses=losses, bitsPerByte=bits,
        packed=[dict(tokens=t, segments=s) for t, s in pack([list(s.encode()) for s in train_text[:3]], 64, SEPARATOR)],
    ),
    gradients=dict(config=small, seed=777, cases=cases),
)
(HERE / 'pretrain.json').write_text(json.dumps(out, separators=(',', ':')) + '\n')
print(losses[0], losses[-1], bits, len(examples[0]), [c['loss'] for c in cases])
