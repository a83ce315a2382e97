"""Asks a checkpoint a fixed set of questions in three languages, greedily, and prints the answers.

    python sample.py --recipe falaj_seed.toml [--prompt TEXT]
"""

import argparse
import json
import tomllib
from pathlib import Path

import torch
from tokenizers import Tokenizer

from data import renderer
from model import Decoder

WEATHER = [{"type": "function", "function": {"name": "get_weather", "description": "Get the weather of a city.", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}]
PROMPTS = [
    "hello", "Who are you?", "What is Falaj?", "what is a receipt?", "translate \"moon\" into Arabic", "12 + 7", "capital of Tunisia?", "write river in uppercase", "reverse this list: apple, stone, bridge", "how do volcanoes work?",
    "Bonjour", "Qui es-tu ?", "C'est quoi Falaj ?", "à quoi sert le registre ?", "comment dit-on « maison » en anglais ?", "combien font 8 + 9 ?", "quelle est la capitale du Sénégal ?", "répète : le chat dort", "compte de 3 à 7", "écris un poème sur la mer",
    "مرحبا", "من أنت؟", "ما هو فلج؟", "ما هي البوابة؟", "ترجم «شمس» إلى الفرنسية", "كم يساوي 5 + 6؟", "ما عاصمة المغرب؟", "كرر: البيت كبير", "ما أول كلمة في هذه القائمة: نهر، قلم، سوق", "اشرح فيزياء الكم",
]
PROSE = ["It was a dark night, and the old man", "Il était une fois, dans une petite ville,", "كان الملك يسكن في قصر كبير"]


def load(recipe):
    model = Decoder(recipe["model"], recipe["tokenizer"]["vocab"])
    state = torch.load(Path(recipe["out"]) / "checkpoint.pt", weights_only=True)
    model.load_state_dict(state["model"])
    return model.eval(), state["step"], Tokenizer.from_file(str(Path(recipe["out"]) / "tokenizer.json"))


@torch.inference_mode()
def complete(model, tokenizer, text, limit=60, temperature=0.0):
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    start = len(ids)
    while len(ids) - start < limit:
        logits = model.logits(model(torch.tensor([ids]))[0, -1])
        ids.append(int(logits.argmax()) if temperature == 0 else int(torch.multinomial((logits / temperature).softmax(-1), 1)))
        if ids[-1] == 2:
            break
    return tokenizer.decode(ids[start:], skip_special_tokens=False)


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--recipe", default="falaj_seed.toml")
    arguments.add_argument("--prompt")
    options = arguments.parse_args()
    torch.set_num_threads(1)
    model, step, tokenizer = load(tomllib.loads(Path(options.recipe).read_text()))
    render = renderer()
    say = lambda prompt, tools=None: complete(model, tokenizer, render({"messages": [{"role": "user", "content": prompt}], "tools": tools}))
    print("step", step)
    for prompt in [options.prompt] if options.prompt else PROMPTS:
        print(json.dumps([prompt, say(prompt)], ensure_ascii=False), flush=True)
    if not options.prompt:
        for prompt in ("What is the weather in Nizwa?", "Quel temps fait-il à Bizerte ?", "كيف الطقس في مسقط؟"):
            print(json.dumps([prompt, say(prompt, WEATHER)], ensure_ascii=False), flush=True)
        for prompt in PROSE:
            print(json.dumps([prompt, complete(model, tokenizer, "<s>" + prompt, 40, 0.7)], ensure_ascii=False), flush=True)


if __name__ == "__main__":
    main()
