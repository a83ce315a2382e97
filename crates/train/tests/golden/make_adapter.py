"""Writes `peft/` beside this file: an adapter that PyPI's `peft` made and saved for a small Llama of transformers, and
`adapter.json`, the logits of both together in float32. The Llama's weights are those of make_golden.py.

    pip install torch peft transformers
    python make_adapter.py
"""

import json
import shutil

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from make_golden import D, E, EPS, FF, H, HERE, K, L, THETA, V, hashes, nine, shapes, weight

T = 20


def base():
    config = LlamaConfig(
        vocab_size=V, hidden_size=D, intermediate_size=FF, num_hidden_layers=L, num_attention_heads=H,
        num_key_value_heads=K, head_dim=E, rms_norm_eps=EPS, max_position_embeddings=64, rope_theta=THETA,
        tie_word_embeddings=True, attn_implementation="eager",
    )
    model = LlamaForCausalLM(config).float().eval()
    state = {name: torch.from_numpy(weight(name, shape)) for name, shape in shapes()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
    model.tie_weights()
    return model


def main():
    model = base()
    tokens = torch.tensor([[int(t) for t in hashes("tokens", T) % V]])
    plain = model(tokens).logits[0]
    lora = LoraConfig(r=4, lora_alpha=12, target_modules=["q_proj", "k_proj", "o_proj", "up_proj"], task_type="CAUSAL_LM")
    adapted = get_peft_model(model, lora)
    for name, values in adapted.named_parameters():
        if "lora_" in name:
            u = (hashes(name, values.numel()) >> 40).astype("float32") / (1 << 24)
            values.data = (torch.from_numpy(u).view(values.shape) - 0.5) * 0.6
    adapted.eval()
    with torch.no_grad():
        logits = adapted(tokens).logits[0]
    folder = HERE / "peft"
    shutil.rmtree(folder, ignore_errors=True)
    adapted.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "tiny"
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
    golden = {
        "tokens": tokens[0].tolist(),
        "moved": nine(((logits - plain).norm() / plain.norm()).item()),
        "logits": [nine(x) for x in logits[-1].tolist()] + [nine(x) for x in logits[T // 2].tolist()],
    }
    (HERE / "adapter.json").write_text(json.dumps(golden) + "\n")
    print("moved by", golden["moved"], sorted(p.name for p in folder.iterdir()))


if __name__ == "__main__":
    main()
