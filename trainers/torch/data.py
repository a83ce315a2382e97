"""From text to batches. Prepares token arrays once; then `batch(step)` depends on the recipe and the step alone, so a resumed run
sees exactly what an unbroken one would have seen.

    python data.py --recipe falaj_seed.toml
"""

import argparse
import json
import tomllib
from pathlib import Path

import jinja2
import numpy as np
from tokenizers import Tokenizer

from corpus import paragraphs, sha256
from instruct import generate
from tokenizer import CHAT_TEMPLATE

LANGUAGES = ("en", "fr", "ar")
BOS, EOS, PAD = 1, 2, 3
CHAT, COPY, PROSE = 1, 2, 3


def renderer(compact=False):
    """The chat template as clients run it. `compact`: JSON without spaces, as some renderers write it."""
    def refuse(message):
        raise jinja2.TemplateError(message)
    environment = jinja2.Environment()
    separators = (",", ":") if compact else None
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False, separators=separators)
    template = environment.from_string(CHAT_TEMPLATE)
    return lambda conversation: template.render(messages=conversation["messages"], tools=conversation.get("tools"), bos_token="<s>", eos_token="</s>",
                                                raise_exception=refuse, add_generation_prompt=True)


def answer_mask(ids, marks):
    """1 where the model itself speaks: after [/INST] or [/TOOL_RESULTS], up to and with </s>."""
    mask, speaking = np.zeros(len(ids), np.uint8), False
    for i, t in enumerate(ids):
        if t in (marks["[TOOL_RESULTS]"], marks["[INST]"], marks["[AVAILABLE_TOOLS]"]):
            speaking = False
        mask[i] = speaking
        if t in (marks["[/INST]"], marks["[/TOOL_RESULTS]"]):
            speaking = True
        elif t == EOS:
            speaking = False
    return mask


def pack(conversations, width, open_rows=32):
    """Whole conversations into rows of `width`, each into the first of a few open rows with room; padded at the end."""
    done, opened = [], []
    for ids, mask in conversations:
        if len(ids) > width:
            continue
        home = next((r for r in opened if len(r[0]) + len(ids) <= width), None)
        if home is None:
            if len(opened) == open_rows:
                done.append(opened.pop(max(range(open_rows), key=lambda i: len(opened[i][0]))))
            home = ([], [])
            opened.append(home)
        home[0].extend(ids)
        home[1].extend(mask.tolist())
    done += opened
    pad = lambda row, with_: row + [with_] * (width - len(row))
    return np.array([pad(r, PAD) for r, _ in done], np.uint16), np.array([pad(m, 0) for _, m in done], np.uint8)


def prepare(recipe):
    out, folder = Path(recipe["out"]), Path(recipe["data"]["folder"])
    tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
    marks = {t: tokenizer.token_to_id(t) for t in ("[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]")}
    for language in LANGUAGES:
        path = folder / f"{language}.txt"
        assert sha256(path) == recipe["data"]["sha256"][language], f"{path} is not the text the recipe names"
        train, held = paragraphs(path)
        for name, part in (("train", train), ("held", held)):
            ids = [i for e in tokenizer.encode_batch(part) for i in (*e.ids, newline(tokenizer))]
            np.save(out / f"{name}_{language}.npy", np.array(ids, np.uint16))
    wide, compact = renderer(), renderer(compact=True)
    conversations = list(generate(recipe["instruct"]["count"], recipe["instruct"]["seed"]))
    texts = [(compact if i % 4 == 3 else wide)(c) for i, c in enumerate(conversations)]
    encoded = [e.ids for e in tokenizer.encode_batch(texts, add_special_tokens=False)]
    rows, masks = pack([(ids, answer_mask(ids, marks)) for ids in encoded], recipe["train"]["sequence"] + 1)
    np.save(out / "chat.npy", rows)
    np.save(out / "chat_mask.npy", masks)
    sizes = {l: int(len(np.load(out / f"train_{l}.npy"))) for l in LANGUAGES}
    print(json.dumps({"prose_tokens": sizes, "chat_rows": len(rows), "chat_tokens": int((rows != PAD).sum()), "chat_answer_tokens": int(masks.sum())}))


def newline(tokenizer):
    return tokenizer.encode("\n").ids[0]


class Batches:
    def __init__(self, recipe):
        out, self.t, self.seed = Path(recipe["out"]), recipe["train"], recipe["seed"]
        self.prose = {l: np.load(out / f"train_{l}.npy") for l in LANGUAGES}
        self.chat, self.mask = np.load(out / "chat.npy"), np.load(out / "chat_mask.npy")
        self.order = np.random.default_rng([self.seed, 1]).permutation(len(self.chat))
        tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
        self.fim = [tokenizer.token_to_id(t) for t in ("[PREFIX]", "[SUFFIX]", "[MIDDLE]")]

    def batch(self, step):
        """tokens: (B, T+1) int64; kinds: (B, T) uint8, what the next token counts as in the loss: 0 nothing, then CHAT, COPY or PROSE."""
        rng, T = np.random.default_rng([self.seed, 2, step]), self.t["sequence"]
        language = lambda i, kind: LANGUAGES[(step * self.t[kind] + i) % 3]
        rows, kinds = [], []
        for i in range(self.t["rows_chat"]):
            at = self.order[(step * self.t["rows_chat"] + i) % len(self.order)]
            rows.append(self.chat[at])
            kinds.append(self.mask[at, 1:] * CHAT)
        for i in range(self.t["rows_copy"]):
            row, mask = self.echoes(rng, language(i, "rows_copy"), T + 1)
            rows.append(row)
            kinds.append(mask[1:] * COPY)
        for i in range(self.t["rows_prose"]):
            rows.append(np.concatenate(([BOS], self.cut(rng, language(i, "rows_prose"), T))))
            kinds.append(np.full(T, PROSE, np.uint8))
        for i in range(self.t["rows_fim"]):
            quarter = (T + 1) // 4
            rows.append(np.concatenate([self.hole(rng, language(i, "rows_fim"), quarter) for _ in range(4)] + [[EOS] * (T + 1 - quarter * 4)]))
            kinds.append(np.full(T, PROSE, np.uint8))
        return np.stack(rows).astype(np.int64), np.stack(kinds)

    def cut(self, rng, language, length):
        at = rng.integers(0, len(self.prose[language]) - length)
        return self.prose[language][at:at + length]

    def echoes(self, rng, language, width):
        """Shuffled tokens said two to four times; the first time does not count. Nothing can be guessed, so the model has to look back and copy."""
        row, mask, pool = [BOS], [0], rng.permutation(self.cut(rng, language, 4 * width)).tolist()
        while len(row) < width:
            length, times = int(rng.integers(3, 20)), int(rng.integers(2, 5))
            span, pool = pool[:length], pool[length:]
            row += span * times
            mask += [0] * (length + 1) + [1] * (length * (times - 1) - 1)
        return np.array(row[:width]), np.array(mask[:width], np.uint8)

    def hole(self, rng, language, width):
        """One fill-in-the-middle piece: Mistral's order (suffix, prefix, middle) or, half the time, prefix, suffix, [MIDDLE], middle."""
        prefix, suffix, middle = self.fim
        mistral = rng.random() < 0.5
        text = self.cut(rng, language, width - (4 if mistral else 5))
        a, b = np.sort(rng.integers(1, len(text), 2))
        b = min(b, a + 40)
        p, m, s = text[:a], text[a:b], text[b:]
        return np.concatenate(([BOS, suffix], s, [prefix], p, m, [EOS]) if mistral else ([BOS, prefix], p, [suffix], s, [middle], m, [EOS]))


def widen(tokens, kinds):
    """Neighbouring rows joined into rows of twice the length, so that the model also learns to read far back."""
    tokens = np.concatenate((tokens[0::2, :-1], tokens[1::2]), 1)
    kinds = kinds.copy()
    kinds[0::2, -1] = 0  # the token that was next there is gone
    return tokens, np.concatenate((kinds[0::2], kinds[1::2]), 1)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--recipe", default="falaj_seed.toml")
    prepare(tomllib.loads(Path(arguments.parse_args().recipe).read_text()))
