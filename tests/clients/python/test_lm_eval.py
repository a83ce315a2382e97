"""lm-evaluation-harness through `local-completions`: the numbers that others publish, and `falaj eval`'s own on the same rows.

The harness cuts choices from contexts by the site's own tokenizer (`/tokenize`) and sends tokens. Everything is local: the task is a
YAML file and JSON lines that this test writes.
"""

import json
import os
import random
import subprocess
import urllib.request

import pytest
from conftest import KEY, MODEL, URL

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", OPENAI_API_KEY=KEY, TQDM_DISABLE="1")

BOS = "<s>"


def rows():
    """Small sums and a few facts: some right, some wrong, whatever the model knows."""
    chance = random.Random(7)
    for first in range(2, 20):
        second = chance.randrange(2, 9)
        choices = [str(first + second + off) for off in (0, 1, -1, 10)]
        chance.shuffle(choices)
        yield f"{first} + {second} =", choices, choices.index(str(first + second))
    yield "The sun rises in the", ["east", "kitchen of the old house", "west"], 0
    yield "Water runs", ["down the hill", "up the chimney"], 0
    yield "Question: what falls from clouds?\nAnswer:", ["rain", "stones and copper kettles", "bread"], 0
    yield "After Monday comes", ["Sunday", "Tuesday", "the end of the world"], 1
    yield "She opened the door and", ["went in", "the of and", "x x x x"], 0
    yield "Il fait froid en", ["hiver", "table", "juillet et en août"], 0
    # What the model itself says next is its greedy answer, which the harness marks.
    for query in ("She opened the door and", "In the middle of the", "He looked at the"):
        yield query, [written(query).strip(), "x x x x"], 0


def written(query):
    body = {"model": MODEL, "prompt": query, "temperature": 0, "max_tokens": 3}
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    request = urllib.request.Request(URL + "/v1/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as reply:
        return json.load(reply)["choices"][0]["text"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lm-eval")
    os.environ["HF_HOME"] = os.environ["HF_DATASETS_CACHE"] = str(folder / "cache")
    with open(folder / "rows.jsonl", "w") as theirs, open(folder / "suite.jsonl", "w") as ours:
        for query, choices, answer in rows():
            theirs.write(json.dumps({"query": query, "choices": choices, "gold": answer}) + "\n")
            row = {"task": "multiple_choice", "prompt": query, "choices": choices, "answer": answer}
            ours.write(json.dumps(row) + "\n")
    (folder / "task.yaml").write_text(
        f"""task: falaj_rows
dataset_path: json
dataset_kwargs:
  data_files:
    test: {folder / "rows.jsonl"}
test_split: test
output_type: multiple_choice
doc_to_text: "{BOS}{{{{query}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: gold
metric_list:
  - metric: acc
  - metric: acc_norm
"""
    )
    return folder


def test_accuracy_and_likelihoods_agree(folder):
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    theirs = simple_evaluate(
        model="local-completions",
        model_args={
            "base_url": URL + "/v1/completions",
            "model": MODEL,
            "auth_token": KEY,
            "max_length": 2048,
            "num_concurrent": 4,
        },
        tasks=["falaj_rows"],
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        batch_size=4,
        log_samples=True,
        bootstrap_iters=0,
    )
    ran = subprocess.run(
        [os.environ["FALAJ_BIN"], "eval", MODEL, str(folder / "suite.jsonl"), "--json"],
        env={"PATH": os.environ["PATH"], "FALAJ_DATA": str(folder / "data")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    ours = json.loads(ran.stdout)["results"][0]

    measured = {one["measure"]: one["value"] for one in ours["measures"] if not {"language", "group"} & set(one)}
    published = theirs["results"]["falaj_rows"]
    samples = sorted(theirs["samples"]["falaj_rows"], key=lambda sample: sample["doc_id"])
    assert len(samples) == len(ours["rows"]) == 27
    furthest = 0.0
    for sample, row in zip(samples, ours["rows"]):
        likelihoods = [float(likelihood) for likelihood, _ in sample["filtered_resps"]]
        assert len(likelihoods) == len(row["choices"])
        furthest = max([furthest, *(abs(a - b) for a, b in zip(likelihoods, row["choices"]))])
    print(f"acc {published['acc,none']} and {measured['acc']}, ", end="")
    print(f"acc_norm {published['acc_norm,none']} and {measured['acc_norm']}, likelihoods at most {furthest} apart")
    # The same products in the same order; reports keep nine decimals.
    assert furthest < 1e-9
    assert published["acc,none"] == pytest.approx(measured["acc"], abs=1e-8)
    assert published["acc_norm,none"] == pytest.approx(measured["acc_norm"], abs=1e-8)
    # Neither all nor none: the comparison compares something.
    assert 0 < measured["acc"] < 1
    # Which needs the chosen token among the most likely, with the same digits.
    assert any(str(greedy) == "True" for sample in samples for _, greedy in sample["filtered_resps"])
