"""From a checkpoint to files others read: a Hugging Face folder (config.json, tokenizer.json, model.safetensors) and GGUF in F32, F16 and Q8_0.

    python export.py --recipe falaj_seed.toml --to DIR

GGUF's llama layout pairs neighbouring rotary dimensions where Hugging Face pairs halves, so the rows of q and k are reordered there.
"""

import argparse
import hashlib
import json
import tomllib
from pathlib import Path

import gguf
import numpy as np
import torch
from safetensors.torch import save_file

from tokenizer import CHAT_TEMPLATE, SPECIAL

DESCRIPTION = "The demonstrator model of Falaj, trained from scratch on public-domain books and generated exercises. Not an assistant."
GGUF_NAMES = {"input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
              "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}


def hugging_face(folder, weights, recipe, tokenizer_json):
    c = recipe["model"]
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"model." + name: w.contiguous() for name, w in weights.items()}, str(folder / "model.safetensors"), metadata={"format": "pt"})
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": c["d"], "intermediate_size": c["ff"], "num_hidden_layers": c["layers"],
              "num_attention_heads": c["heads"], "num_key_value_heads": c["kv_heads"], "head_dim": c["head"], "vocab_size": recipe["tokenizer"]["vocab"],
              "max_position_embeddings": c["context"], "rms_norm_eps": c["eps"], "rope_theta": c["rope_theta"], "hidden_act": "silu", "attention_bias": False, "mlp_bias": False,
              "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3, "torch_dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "generation_config.json").write_text(json.dumps({"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3}, indent=2) + "\n")
    (folder / "tokenizer.json").write_text(tokenizer_json, encoding="utf-8")
    tokenizer_config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>", "add_bos_token": True,
                        "add_eos_token": False, "clean_up_tokenization_spaces": False, "model_max_length": c["context"], "chat_template": CHAT_TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def write_gguf(path, weights, recipe, tokenizer_json, kind):
    c, vocab = recipe["model"], json.loads(tokenizer_json)["model"]
    w = gguf.GGUFWriter(str(path), "llama")
    w.add_name(recipe["name"])
    w.add_description(DESCRIPTION)
    w.add_license("apache-2.0")
    w.add_languages(["en", "fr", "ar"])
    w.add_file_type({"F32": gguf.LlamaFileType.ALL_F32, "F16": gguf.LlamaFileType.MOSTLY_F16, "Q8_0": gguf.LlamaFileType.MOSTLY_Q8_0}[kind])
    w.add_quantization_version(gguf.GGML_QUANT_VERSION)
    w.add_context_length(c["context"])
    w.add_embedding_length(c["d"])
    w.add_block_count(c["layers"])
    w.add_feed_forward_length(c["ff"])
    w.add_head_count(c["heads"])
    w.add_head_count_kv(c["kv_heads"])
    w.add_key_length(c["head"])
    w.add_value_length(c["head"])
    w.add_rope_dimension_count(c["head"])
    w.add_rope_freq_base(c["rope_theta"])
    w.add_layer_norm_rms_eps(c["eps"])
    w.add_vocab_size(recipe["tokenizer"]["vocab"])
    tokens = [t for t, _ in sorted(vocab["vocab"].items(), key=lambda entry: entry[1])]
    types = [gguf.TokenType.UNKNOWN if t == "<unk>" else gguf.TokenType.CONTROL if t in SPECIAL else gguf.TokenType.NORMAL for t in tokens]
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("qwen2")  # the same split expression, known to readers by this name
    w.add_token_list(tokens)
    w.add_token_types(types)
    w.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in vocab["merges"]])
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    w.add_unk_token_id(0)
    w.add_pad_token_id(3)
    for key, token in (("fim_pre", "[PREFIX]"), ("fim_suf", "[SUFFIX]"), ("fim_mid", "[MIDDLE]")):
        w.add_uint32(f"tokenizer.ggml.{key}_token_id", tokens.index(token))
    w.add_add_bos_token(True)
    w.add_add_eos_token(False)
    w.add_add_space_prefix(False)
    w.add_chat_template(CHAT_TEMPLATE)
    w.add_string("tokenizer.huggingface.json", tokenizer_json)
    for name, weight in weights.items():
        a = weight.float().numpy()
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            heads = c["heads"] if "q_proj" in name else c["kv_heads"]
            a = a.reshape(heads, 2, c["head"] // 2, -1).swapaxes(1, 2).reshape(a.shape)
        target = gguf.GGMLQuantizationType[kind if a.ndim == 2 else "F32"]
        w.add_tensor(gguf_name(name), gguf.quants.quantize(np.ascontiguousarray(a), target), raw_dtype=target)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def gguf_name(name):
    if name == "embed_tokens.weight":
        return "token_embd.weight"
    if name == "norm.weight":
        return "output_norm.weight"
    _, layer, rest = name.split(".", 2)
    return f"blk.{layer}.{GGUF_NAMES[rest.removesuffix('.weight')]}.weight"


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--recipe", default="falaj_seed.toml")
    arguments.add_argument("--to", default=None, help="folder of the three GGUF files; default: the recipe's out folder")
    options = arguments.parse_args()
    recipe = tomllib.loads(Path(options.recipe).read_text())
    out = Path(recipe["out"])
    state = torch.load(out / "checkpoint.pt", weights_only=True)
    tokenizer_json = (out / "tokenizer.json").read_text(encoding="utf-8")
    hugging_face(out / "hf", state["model"], recipe, tokenizer_json)
    folder = Path(options.to or out / "gguf")
    folder.mkdir(parents=True, exist_ok=True)
    for kind in ("F32", "F16", "Q8_0"):
        path = folder / f"{recipe['name']}-{kind.lower()}.gguf"
        write_gguf(path, state["model"], recipe, tokenizer_json, kind)
        # As `sha256sum` writes it: the binary compares it with the built-in model.
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        path.with_name(path.name + ".sha256").write_text(f"{digest}  {path.name}\n")
    print(f"step {state['step']}: {folder}")


if __name__ == "__main__":
    main()
