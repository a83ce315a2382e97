"""The tokenizer of falaj-seed: byte-level BPE, one budget shared fairly by English, French and Arabic.

    python tokenizer.py --recipe falaj_seed.toml

The amount of text per language is moved until a token carries the same number of bytes in each (on held-out text). The split is
Qwen 2's, which is known to GGUF readers by name: words with the mark before them, every digit alone.
"""

import argparse
import json
import random
import tomllib
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from corpus import paragraphs
from instruct import generate

SPECIAL = ["<unk>", "<s>", "</s>", "<pad>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]", "[TOOL_RESULTS]",
           "[/TOOL_RESULTS]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[PREFIX]", "[SUFFIX]", "[MIDDLE]"]
SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
CHAT_TEMPLATE = (Path(__file__).parent / "chat_template.jinja").read_text(encoding="utf-8").strip()


def train(recipe, bytes_by_language, texts, instructions):
    """One BPE over the first `bytes_by_language[l]` bytes of each shuffled language and the instruction lines."""
    def lines():
        for language, paras in texts.items():
            left = bytes_by_language[language]
            for p in paras:
                if left <= 0:
                    break
                left -= len(p.encode())
                yield p
        yield from instructions
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(lines(), trainers.BpeTrainer(
        vocab_size=recipe["vocab"], special_tokens=[AddedToken(t, special=True, normalized=False) for t in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), max_token_length=24, show_progress=False))
    return tokenizer


def bytes_per_token(tokenizer, held):
    text = {l: "\n".join(p) for l, p in held.items()}
    return {l: round(len(t.encode()) / len(tokenizer.encode(t).ids), 3) for l, t in text.items()}


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--recipe", default="falaj_seed.toml")
    recipe = tomllib.loads(Path(arguments.parse_args().recipe).read_text())
    folder = Path(recipe["data"]["folder"])
    texts, held = {}, {}
    for language in ("en", "fr", "ar"):
        texts[language], held[language] = paragraphs(folder / f"{language}.txt")
        random.Random(0).shuffle(texts[language])
    instructions = [m["content"] for c in generate(recipe["tokenizer"]["instructions"], recipe["instruct"]["seed"] + 1) for m in c["messages"]]
    instructions += [json.dumps(c["tools"], ensure_ascii=False) for c in generate(600, recipe["instruct"]["seed"] + 2) if "tools" in c]
    share = dict(recipe["tokenizer"]["bytes"])
    for round_ in range(recipe["tokenizer"]["rounds"]):
        tokenizer = train(recipe["tokenizer"], share, texts, instructions)
        rate = bytes_per_token(tokenizer, held)
        spread = max(rate.values()) / min(rate.values()) - 1
        print(json.dumps({"round": round_, "bytes": share, "bytes_per_token": rate, "spread": round(spread, 3)}), flush=True)
        if spread < recipe["tokenizer"]["spread"]:
            break
        middle = sorted(rate.values())[1]
        share = {l: int(min(share[l] * (middle / rate[l]) ** 3, 3_200_000 if l == "fr" else 6_000_000)) for l in share}
    out = Path(recipe["out"])
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(out / "tokenizer.json"))
    (out / "tokenizer_figures.json").write_text(json.dumps({"bytes": share, "bytes_per_token": rate, "spread": spread}))


if __name__ == "__main__":
    main()
