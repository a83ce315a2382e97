"""Writes `variants.json` beside this file: what the package `tokenizers` makes of the texts with other forms of the two tokenizer.json
here, which are named as changes to them. Needs that package alone.

    python make_variants.py
"""

import json
from pathlib import Path

import tokenizers

HERE = Path(__file__).parent
TEXTS = json.loads((HERE / "texts.json").read_text())
SPACES = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
PIECES = [SPACES, {"type": "ByteFallback"}, {"type": "Fuse"}]
STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}


def metaspace(scheme, split):
    return {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split}


def sequence(*decoders):
    return {"type": "Sequence", "decoders": list(decoders)}


VARIANTS = {
    # Every other merge is left out, so that half of the words can only be taken whole.
    "ignore_merges": ("bytelevel.json", {"/model/ignore_merges": True}, 2),
    "heeded_merges": ("bytelevel.json", {"/model/ignore_merges": False}, 2),
    # Mistral 7B v0.3, as it came.
    "mistral": ("llama.json", {"/normalizer": None, "/pre_tokenizer": metaspace("first", False), "/decoder": sequence(*PIECES, STRIP)}, 1),
    # Gemma: no space before the text, none taken away.
    "no_prefix": ("llama.json", {"/normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}, "/decoder": sequence(*PIECES)}, 1),
    # Spaces written and read by the pre-tokenizer's twin, with and without one before the text.
    "metaspace": ("llama.json", {"/normalizer": None, "/pre_tokenizer": metaspace("always", True),
                                 "/decoder": sequence({"type": "ByteFallback"}, metaspace("always", True))}, 1),
    "metaspace_never": ("llama.json", {"/normalizer": None, "/pre_tokenizer": metaspace("never", True),
                                       "/decoder": sequence({"type": "ByteFallback"}, metaspace("never", True))}, 1),
}


def main():
    golden = {}
    for name, (base, changes, merges_step) in VARIANTS.items():
        data = json.loads((HERE / base).read_text())
        for pointer, value in changes.items():
            *parents, last = pointer.split("/")[1:]
            place = data
            for parent in parents:
                place = place[parent]
            place[last] = value
        data["model"]["merges"] = data["model"]["merges"][::merges_step]
        made = tokenizers.Tokenizer.from_str(json.dumps(data))
        made.encode_special_tokens = True
        tokens = [made.encode(text, add_special_tokens=False).ids for text in TEXTS]
        # Nothing where the text came back as it was.
        decoded = [None if made.decode(ids) == text else made.decode(ids) for ids, text in zip(tokens, TEXTS)]
        golden[name] = {"base": base, "changes": changes, "merges_step": merges_step, "texts": tokens, "decoded": decoded}
    assert golden["ignore_merges"]["texts"] != golden["heeded_merges"]["texts"]
    lines = [f"{json.dumps(name)}: {json.dumps(facts, ensure_ascii=False, separators=(',', ':'))}" for name, facts in golden.items()]
    (HERE / "variants.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
