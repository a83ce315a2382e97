"""What we export, read by those for whom it is: transformers, peft and llama.cpp. No test of the workspace needs it.

    pip install torch transformers peft
    cargo build --release -p falaj
    python readers.py target/release/falaj [LLAMA_SERVER]

LLAMA_SERVER: llama.cpp's `llama-server`; left out, that part is skipped. Prints one line for each comparison, and fails with the first
that does not hold.
"""

import json
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

TEXT = "The water's share, 1234 turns! L'eau du canal, à l'été ; déjà ? الماء قِسمةٌ بين القرى، ٣٠ سنة.\n\tx = [1, 22]"
PROMPTS = ["What is a falaj?", "Bonjour ! Que sais-tu faire ?", "ما هو الفلج؟"]
MOST = 24


class Falaj:
    def __init__(self, program, folder):
        self.program, self.folder = str(pathlib.Path(program).resolve()), folder

    def __call__(self, *args):
        env = {"HOME": str(self.folder), "FALAJ_DATA": str(self.folder / "data")}
        ran = subprocess.run([self.program, *args], cwd=self.folder, env=env, capture_output=True, text=True)
        assert ran.returncode == 0, (args, ran.stderr)
        return ran.stdout


def logits(model, tokens):
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0].float()


def apart(a, b):
    return ((a - b).norm() / (b - b.mean()).norm()).item()


def greedy(falaj, model, prompt):
    return json.loads(falaj("run", model, prompt, "--max-tokens", str(MOST), "--json"))["text"]


def transformers_greedy(model, tokenizer, prompt):
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    out = model.generate(**ids, max_new_tokens=MOST, do_sample=False)
    return tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)


def hugging_face(falaj, folder):
    falaj("model", "export", "falaj-seed", "hf")
    tokenizer = AutoTokenizer.from_pretrained(folder / "hf")
    model = AutoModelForCausalLM.from_pretrained(folder / "hf", dtype=torch.float32).eval()
    for prompt in PROMPTS:
        ours, theirs = greedy(falaj, "./hf", prompt), transformers_greedy(model, tokenizer, prompt)
        assert ours.strip() == theirs.strip(), (prompt, ours, theirs)
    print(f"transformers reads our folder: {len(PROMPTS)} greedy answers of at most {MOST} tokens are ours")
    return tokenizer, model


def adapter(falaj, folder, tokenizer, model):
    rows = [{"messages": [{"role": "user", "content": f"What is {i} plus one?"}, {"role": "assistant", "content": f"It is {i + 1}."}]} for i in range(60)]
    (folder / "talks.jsonl").write_text("\n".join(map(json.dumps, rows)))
    recipe = ['name = "plus"', 'base = "./hf"', 'method = "lora"', "[data]", 'train = "talks.jsonl"', "[export]", 'formats = ["peft", "safetensors"]']
    (folder / "recipe.toml").write_text("\n".join(recipe))
    falaj("train", "recipe.toml", "--out", "job")
    adapted = PeftModel.from_pretrained(model, folder / "job/out/peft").eval()
    tokens = tokenizer(TEXT)["input_ids"]
    with_adapter = logits(adapted, tokens)
    with adapted.disable_adapter():
        moved = apart(with_adapter, logits(adapted, tokens))
    merged = AutoModelForCausalLM.from_pretrained(folder / "job/out/safetensors", dtype=torch.float32).eval()
    falaj("model", "export", "./hf", "merged", "--adapter", "job/out/peft")
    later = AutoModelForCausalLM.from_pretrained(folder / "merged", dtype=torch.float32).eval()
    off = [apart(logits(m, tokens), with_adapter) for m in (merged, later)]
    assert moved > 0.05 and max(off) < 0.02, (moved, off)
    print(f"peft reads our adapter: it moves logits by {moved:.3f}; merged by the job {off[0]:.5f} off, by `model export` {off[1]:.5f}")


def llama_cpp(falaj, folder, tokenizer, server):
    falaj("model", "export", "./hf", "there.gguf", "--format", "f16")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = open(folder / "llama.log", "w")
    process = subprocess.Popen([server, "-m", folder / "there.gguf", "--port", str(port), "-t", "2", "--jinja"], stdout=log, stderr=log)

    def ask(path, body):
        data = json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, {"content-type": "application/json"})
        return json.load(urllib.request.urlopen(request, timeout=60))

    try:
        for _ in range(300):
            try:
                ask("/tokenize", {"content": "a"})
                break
            except OSError:
                time.sleep(0.1)
        theirs = ask("/tokenize", {"content": TEXT})["tokens"]
        ours = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
        assert theirs == ours, (theirs, ours)
        for prompt in PROMPTS:
            body = {"messages": [{"role": "user", "content": prompt}], "max_tokens": MOST, "temperature": 0}
            said = ask("/v1/chat/completions", body)["choices"][0]["message"]["content"]
            assert said.strip() == greedy(falaj, "./there.gguf", prompt).strip(), (prompt, said)
        print(f"llama.cpp reads our GGUF: {len(ours)} tokens of three languages and {len(PROMPTS)} greedy answers are ours")
    finally:
        process.terminate()
        process.wait()


def main():
    program, *server = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        falaj = Falaj(program, folder)
        tokenizer, model = hugging_face(falaj, folder)
        adapter(falaj, folder, tokenizer, model)
        if server:
            llama_cpp(falaj, folder, tokenizer, server[0])


if __name__ == "__main__":
    main()
