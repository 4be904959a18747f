"""PyTorch and Opacus on the bench's model: one JSON answer a line for each JSON line read.

python peer.py '{"model": {...}, "what": "full" | "lora", "rank": 8, "how": "plain" | "ghost" | "hooks", "secure": false}'
{"do": "step"} -> {"seconds": ..., "cpu": ...}; {"do": "memory"} -> {"peak": bytes}
The model is written with the modules that Opacus knows (nn.Linear, nn.Embedding, nn.RMSNorm) and PyTorch's own attention kernel.
"""

import json, math, os, resource, sys, time

import torch
from torch import nn
from torch.nn import functional as F

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))


class Lora(nn.Module):
    def __init__(self, base, rank):
        super().__init__()
        self.base = base
        self.a = nn.Linear(base.in_features, rank, bias=False)
        self.b = nn.Linear(rank, base.out_features, bias=False)
        nn.init.normal_(self.b.weight, std=0.01)

    def forward(self, x):
        return self.base(x) + 2.0 * self.b(self.a(x))


class Block(nn.Module):
    def __init__(self, c, rank):
        super().__init__()
        width, kv = c["heads"] * c["headDim"], c["kvHeads"] * c["headDim"]

        def linear(i, o):
            layer = nn.Linear(i, o, bias=False)
            return Lora(layer, rank) if rank else layer

        h, f = c["hidden"], c["ffn"]
        self.c = c
        self.norm1, self.norm2 = nn.RMSNorm(h, eps=1e-5), nn.RMSNorm(h, eps=1e-5)
        self.q, self.k, self.v, self.o = linear(h, width), linear(h, kv), linear(h, kv), linear(width, h)
        self.gate, self.up, self.down = linear(h, f), linear(h, f), linear(f, h)

    def forward(self, x, cos, sin):
        c = self.c
        b, t, _ = x.shape

        def heads(y, n):
            return y.view(b, t, n, c["headDim"]).transpose(1, 2)

        def rotate(y):
            first, second = y.chunk(2, -1)
            return y * cos + torch.cat((-second, first), -1) * sin

        n = self.norm1(x)
        q, k, v = rotate(heads(self.q(n), c["heads"])), rotate(heads(self.k(n), c["kvHeads"])), heads(self.v(n), c["kvHeads"])
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + self.o(a.transpose(1, 2).reshape(b, t, -1))
        n = self.norm2(x)
        return x + self.down(F.silu(self.gate(n)) * self.up(n))


class Llama(nn.Module):
    def __init__(self, c, rank=0):
        super().__init__()
        self.embed = nn.Embedding(c["vocabSize"], c["hidden"])
        self.blocks = nn.ModuleList(Block(c, rank) for _ in range(c["layers"]))
        self.norm = nn.RMSNorm(c["hidden"], eps=1e-5)
        self.head = nn.Linear(c["hidden"], c["vocabSize"], bias=False)
        with torch.no_grad():
            for name, p in self.named_parameters():
                if p.dim() > 1:
                    p.normal_(std=0.02)
        angle = torch.arange(c["length"])[:, None] * 10000.0 ** (-torch.arange(0, c["headDim"], 2) / c["headDim"])
        self.register_buffer("cos", torch.cat((angle, angle), -1).cos())
        self.register_buffer("sin", torch.cat((angle, angle), -1).sin())

    def forward(self, ids):
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        return self.head(self.norm(x))


def contestant(setting):
    c, how = setting["model"], setting["how"]
    torch.manual_seed(1)
    model = Llama(c, setting["rank"] if setting["what"] == "lora" else 0)
    if setting["what"] == "lora":
        for name, p in model.named_parameters():
            p.requires_grad = name.endswith((".a.weight", ".b.weight"))
        if c["tied"]:
            model.head.weight = model.embed.weight
    params = [p for p in model.parameters() if p.requires_grad]
    ids = torch.randint(0, c["vocabSize"], (c["batch"], c["length"] + 1))
    inputs, labels = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
    optimizer = torch.optim.Adam(params, lr=1e-4, fused=setting.get("fused", False) or None)
    if how == "plain":

        def step():
            optimizer.zero_grad()
            logits = model(inputs)
            F.cross_entropy(logits.view(-1, c["vocabSize"]), labels.view(-1)).backward()
            optimizer.step()

        return step

    dp = dict(noise_multiplier=1.0, max_grad_norm=1.0, expected_batch_size=c["batch"], secure_mode=setting["secure"])
    model.train()
    if how == "hooks":
        from opacus import GradSampleModule
        from opacus.optimizers import DPOptimizer

        wrapped, optimizer = GradSampleModule(model), DPOptimizer(optimizer, **dp)

        def step():
            optimizer.zero_grad()
            logits = wrapped(inputs)
            F.cross_entropy(logits.view(-1, c["vocabSize"]), labels.view(-1)).backward()
            optimizer.step()

        return step

    from opacus.grad_sample.grad_sample_module_fast_gradient_clipping import GradSampleModuleFastGradientClipping
    from opacus.optimizers.optimizer_fast_gradient_clipping import DPOptimizerFastGradientClipping
    from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping

    wrapped = GradSampleModuleFastGradientClipping(model, max_grad_norm=1.0, use_ghost_clipping=True)
    optimizer = DPOptimizerFastGradientClipping(optimizer, **dp)
    criterion = DPLossFastGradientClipping(wrapped, optimizer, nn.CrossEntropyLoss(), "mean")

    def step():
        optimizer.zero_grad()
        logits = wrapped(inputs)
        loss = criterion(logits.view(-1, c["vocabSize"]), labels.view(-1), shape=(c["batch"], c["length"], c["vocabSize"]))
        loss.backward()
        optimizer.step()

    return step


def main():
    step = contestant(json.loads(sys.argv[1]))
    for line in sys.stdin:
        question = json.loads(line)
        if question["do"] == "memory":
            answer = {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
        else:
            started, cpu = time.perf_counter(), time.process_time()
            step()
            answer = {"seconds": time.perf_counter() - started, "cpu": time.process_time() - cpu}
        print(json.dumps(answer), flush=True)


main()
