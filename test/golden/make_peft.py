"""LoRA adapters as PEFT saves them, over the tied model of engine.json, and the logits PEFT gives: writes peft.json.

Made with torch 2.8.0, transformers 5.24.0, peft 0.21.2: python make_peft.py > peft.json
"""

import base64, json, tempfile
from pathlib import Path

import numpy as np
import peft
import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

golden = json.loads((Path(__file__).parent / "engine.json").read_text())
case = golden["cases"]["tied"]


def unpack(p):
    return torch.tensor(np.frombuffer(base64.b64decode(p["f32"]), "<f4").reshape(p["shape"]).copy())


def base():
    config = LlamaConfig(vocab_size=32, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=24,
                         max_position_embeddings=64, rope_theta=10000.0, rms_norm_eps=1e-5, tie_word_embeddings=True, attn_implementation="eager")
    model = LlamaForCausalLM(config)
    model.load_state_dict({k: unpack(p) for k, p in case["weights"].items()}, strict=False)
    return model.eval()


out = {"versions": {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__}, "adapters": {}}
for name, kwargs in {"plain": {}, "rslora": {"use_rslora": True}, "some": {"target_modules": ["q_proj", "down_proj"], "layers_to_transform": [1]}}.items():
    torch.manual_seed(5)
    kwargs = {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"], **kwargs}
    model = peft.get_peft_model(base(), peft.LoraConfig(r=2, lora_alpha=3, task_type="CAUSAL_LM", init_lora_weights=False, **kwargs))
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        files = {f: base64.b64encode((Path(folder) / f).read_bytes()).decode() for f in ("adapter_config.json", "adapter_model.safetensors")}
        logits = model(input_ids=torch.tensor([golden["sequences"][0]]), use_cache=False).logits[0]
    out["adapters"][name] = {"files": files, "logits": {"shape": list(logits.shape), "f32": base64.b64encode(logits.numpy().astype("<f4").tobytes()).decode()}}
print(json.dumps(out, separators=(",", ":")))
