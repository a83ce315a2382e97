"""Writes the golden logits beside this file. The reference is Hugging Face transformers on PyTorch, eager attention,
on the CPU in float32; weights come from the formula in README.md, through a safetensors file on disk, so that the
reference also reads the names that a real checkpoint has.

    python make_golden.py [NAME ...]
"""

import json
import pathlib
import sys
import tempfile

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

HERE = pathlib.Path(__file__).parent
TOKENS = 32
SAMPLED_POSITIONS = (0, 1, 9, 20)
SAMPLED_LOGITS = 16

DENSE = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 256,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", **DENSE}
MISTRAL = {"architectures": ["MistralForCausalLM"], "model_type": "mistral", **DENSE}
MIXTRAL = {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral", **DENSE}


def without(config, *names):
    return {name: value for name, value in config.items() if name not in names}


MODELS = {
    "llama_gqa": LLAMA | {"vocab_size": 320},
    "llama_tied_wide": without(LLAMA, "rope_theta")
    | {
        "tie_word_embeddings": True,
        "head_dim": 64,
        "num_key_value_heads": 4,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0},
    },
    "llama3_rope": LLAMA
    | {
        "rope_theta": 500000.0,
        "num_attention_heads": 4,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    },
    "yarn_rope": LLAMA
    | {
        "num_attention_heads": 4,
        "max_position_embeddings": 256,
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": 4.0,
            "beta_fast": 4.0,
            "beta_slow": 1.0,
            "original_max_position_embeddings": 64,
        },
    },
    "mistral_window": MISTRAL | {"sliding_window": 8, "head_dim": 32},
    "mixtral": MIXTRAL | {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None},
}


def fnv1a64(name):
    h = 0xCBF29CE484222325
    for byte in name.encode():
        h = (h ^ byte) * 0x100000001B3 & (1 << 64) - 1
    return h


def splitmix64(x):
    with np.errstate(over="ignore"):
        z = x + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def hashes(name, count):
    with np.errstate(over="ignore"):
        return splitmix64(np.uint64(fnv1a64(name)) + np.arange(count, dtype=np.uint64))


def weight(name, shape):
    u = (hashes(name, int(np.prod(shape))) >> np.uint64(40)).astype(np.float32) / np.float32(1 << 24)
    if len(shape) == 1:
        values = np.float32(1) + (u - np.float32(0.5)) * np.float32(0.2)
    else:
        scale = np.float32(1.0 / np.sqrt(np.float64(shape[-1]))) * np.float32(2)
        values = (u - np.float32(0.5)) * scale
    assert values.dtype == np.float32
    return values.reshape(shape)


def shapes(config):
    """Names and shapes as a checkpoint on the hub has them."""
    d, ff, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    head_dim = config.get("head_dim", d // heads)
    yield "model.embed_tokens.weight", (vocab, d)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        yield prefix + "input_layernorm.weight", (d,)
        yield prefix + "self_attn.q_proj.weight", (heads * head_dim, d)
        yield prefix + "self_attn.k_proj.weight", (kv_heads * head_dim, d)
        yield prefix + "self_attn.v_proj.weight", (kv_heads * head_dim, d)
        yield prefix + "self_attn.o_proj.weight", (d, heads * head_dim)
        yield prefix + "post_attention_layernorm.weight", (d,)
        experts = config.get("num_local_experts")
        if experts:
            yield prefix + "block_sparse_moe.gate.weight", (experts, d)
            for expert in range(experts):
                inner = f"{prefix}block_sparse_moe.experts.{expert}."
                yield inner + "w1.weight", (ff, d)
                yield inner + "w2.weight", (d, ff)
                yield inner + "w3.weight", (ff, d)
        else:
            yield prefix + "mlp.gate_proj.weight", (ff, d)
            yield prefix + "mlp.up_proj.weight", (ff, d)
            yield prefix + "mlp.down_proj.weight", (d, ff)
    yield "model.norm.weight", (d,)
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", (vocab, d)


def logits(folder, tokens, dtype):
    model, report = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation="eager", experts_implementation="eager", output_loading_info=True
    )
    wrong = {kind: names for kind, names in report.items() if names}
    assert not wrong, f"the reference did not read every tensor: {wrong}"
    with torch.no_grad():
        return model.eval()(torch.tensor([tokens])).logits[0].double().numpy()


def nine_digits(value):
    return float(f"{np.float32(value):.9g}")


def make(name, config):
    weights = {key: weight(key, shape) for key, shape in shapes(config)}
    tokens = [int(t) for t in hashes("tokens", TOKENS) % np.uint64(config["vocab_size"])]
    with tempfile.TemporaryDirectory() as folder:
        (pathlib.Path(folder) / "config.json").write_text(json.dumps(config))
        save_file({k: torch.from_numpy(w) for k, w in weights.items()}, f"{folder}/model.safetensors", {"format": "pt"})
        single = logits(folder, tokens, torch.float32)
        double = logits(folder, tokens, torch.float64)
    diff = float(np.abs(single - double).max())
    assert diff < 2e-5, f"{name}: float32 and float64 disagree by {diff}"
    ordered = np.sort(single, axis=1)
    ids = [int(i) for i in hashes("samples", SAMPLED_LOGITS) % np.uint64(config["vocab_size"])]
    golden = {
        "name": name,
        "config": config,
        "tokens": tokens,
        "argmax": [int(i) for i in single.argmax(axis=1)],
        "argmax_gap": nine_digits((ordered[:, -1] - ordered[:, -2]).min()),
        "float64_max_abs_diff": float(f"{diff:.3g}"),
        "checks": [
            {"name": key, "index": w.size // 2, "value": nine_digits(w.reshape(-1)[w.size // 2])}
            for key, w in list(weights.items())[:4]
        ],
        "samples": [
            {"position": p, "logits": [[i, nine_digits(single[p, i])] for i in ids]} for p in SAMPLED_POSITIONS
        ],
        "last": {"position": TOKENS - 1, "logits": [nine_digits(v) for v in single[-1]]},
    }
    text = "{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in golden.items()) + "\n}\n"
    (HERE / f"{name}.json").write_text(text)
    print(f"{name}: |float32 - float64| <= {diff:.2g}, argmax gap {golden['argmax_gap']:.2g}, {len(text)} bytes")


if __name__ == "__main__":
    for chosen in sys.argv[1:] or MODELS:
        make(chosen, MODELS[chosen])
