"""Measures a checkpoint: bits per byte on held-out books beside a unigram baseline, and exact answers by task on fresh conversations.

    python evaluate.py --recipe falaj_seed.toml [--each 20]

An answer is exact when greedy decoding would give it whole: then the reference is the most likely token at every place, which one
forward pass over the reference shows. Questions about Falaj have several good answers; any of them counts.
"""

import argparse
import json
import random
import tomllib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from about_falaj import FACTS
from corpus import paragraphs
from data import BOS, LANGUAGES, answer_mask, renderer
from instruct import KINDS
from sample import load


@torch.inference_mode()
def bits_per_byte(model, tokenizer, recipe, language, windows=40, width=512):
    """(model, unigram): mean bits per byte of held-out text; the unigram model knows the frequency of each token in the training text."""
    out = Path(recipe["out"])
    held, train = np.load(out / f"held_{language}.npy"), np.load(out / f"train_{language}.npy")
    counts = np.bincount(train, minlength=recipe["tokenizer"]["vocab"]) + 1.0
    unigram = -np.log2(counts / counts.sum())
    starts = np.linspace(0, len(held) - width, windows).astype(int)
    total = base = size = 0.0
    for at in starts:
        ids = torch.from_numpy(np.concatenate(([BOS], held[at:at + width])).astype(np.int64))[None]
        total += F.cross_entropy(model.logits(model(ids[:, :-1])[0]), ids[0, 1:], reduction="sum").item() / np.log(2)
        base += unigram[held[at:at + width]].sum()
        size += len(tokenizer.decode(held[at:at + width].tolist()).encode())
    return round(total / size, 3), round(base / size, 3)


@torch.inference_mode()
def exact(model, tokenizer, conversation, render, marks):
    """Per assistant turn: whether greedy decoding gives exactly the reference."""
    ids = tokenizer.encode(render(conversation), add_special_tokens=False).ids
    mask = answer_mask(ids, marks)
    best = model.logits(model(torch.tensor([ids[:-1]]))[0]).argmax(-1).tolist()
    right, turns = True, []
    for i in range(1, len(ids)):
        if mask[i]:
            right = right and best[i - 1] == ids[i]
            if ids[i] == 2:
                turns.append(right)
                right = True
    return turns


def alternatives(conversation):
    """The same conversation with every answer that the generator accepts for a question about Falaj."""
    last = conversation["messages"][-1]["content"]
    for fact in FACTS:
        for _, answers in fact.values():
            if last in answers:
                return [{**conversation, "messages": conversation["messages"][:-1] + [{"role": "assistant", "content": a}]} for a in answers]
    return [conversation]


FREE = {"greeting", "thanks", "goodbye", "not known", "several turns"}  # many right answers, or a mixture: not scored


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--recipe", default="falaj_seed.toml")
    arguments.add_argument("--each", type=int, default=20, help="conversations per task and language")
    arguments.add_argument("--seed", type=int, default=987_654)
    options = arguments.parse_args()
    recipe = tomllib.loads(Path(options.recipe).read_text())
    torch.set_num_threads(1)
    model, step, tokenizer = load(recipe)
    report = {"step": step, "bits_per_byte": {}, "exact": {}}
    for language in LANGUAGES:
        ours, unigram = bits_per_byte(model, tokenizer, recipe, language)
        report["bits_per_byte"][language] = {"model": ours, "unigram": unigram}
    render, marks = renderer(), {t: tokenizer.token_to_id(t) for t in ("[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]")}
    for name, make, _ in KINDS:
        if name in FREE:
            continue
        report["exact"][name] = {}
        for language in LANGUAGES:
            rng, turns = random.Random(f"{options.seed} {name} {language}"), []
            for _ in range(options.each):
                messages, tools = make(rng, language)
                conversation = {"messages": messages, "tools": tools}
                if name == "about falaj":
                    turns.append(any(exact(model, tokenizer, c, render, marks)[-1] for c in alternatives(conversation)))
                elif name == "remember a name":
                    turns.append(exact(model, tokenizer, conversation, render, marks)[-1])
                else:
                    turns += exact(model, tokenizer, conversation, render, marks)
            report["exact"][name][language] = round(sum(turns) / len(turns), 2)
    (Path(recipe["out"]) / "evaluation.json").write_text(json.dumps(report, ensure_ascii=False, indent=1) + "\n")
    print(json.dumps(report["bits_per_byte"]))
    for name, scores in report["exact"].items():
        print(f"{name:18}", *(f"{l} {s:.2f}" for l, s in scores.items()))


if __name__ == "__main__":
    main()
