"""Makes features-smollm2.json: mean over tokens of the RMS-normalised hidden state after block 10, by transformers from the same GGUF.

python make_features.py SMOLLM2.gguf    (pip install torch==2.5.1 transformers==4.46.3 accelerate==1.1.1 gguf==0.19.0)
Also the greedy continuation of a prompt on the dequantized weights.
"""

import json
import sys
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

TEXTS = ["My card has not arrived yet.", "I was charged twice for the same 25 euro payment!", "a"]
LAYER = 10
PROMPT = "The capital of France is"

path = Path(sys.argv[1])
torch.set_num_threads(1)
model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, torch_dtype=torch.float32)
model.config.tie_word_embeddings = True  # the loader leaves a tied head at random
model.lm_head.weight = model.model.embed_tokens.weight
tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)


def feature(text):
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        hidden = model(ids, output_hidden_states=True).hidden_states[LAYER][0]
    normed = hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + model.config.rms_norm_eps)
    return [round(v, 6) for v in normed.mean(0).tolist()]


ids = tokenizer(PROMPT, return_tensors="pt", add_special_tokens=False)["input_ids"]
with torch.no_grad():
    made = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False)
out = {
    "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    "layer": LAYER,
    "features": [{"text": t, "ids": tokenizer(t, add_special_tokens=False)["input_ids"], "vector": feature(t)} for t in TEXTS],
    "greedy": {"prompt": PROMPT, "ids": made[0, ids.shape[1] :].tolist()},
}
(Path(__file__).parent / "features-smollm2.json").write_text(json.dumps(out, separators=(",", ":")) + "\n")
