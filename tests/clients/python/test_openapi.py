"""Schemathesis over the OpenAPI document that the server publishes: whatever it makes up is answered, and never by a 500."""

import json
import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

CHECKS = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "unsupported_method",
    "ignored_auth",
]


def uploaded(url, key):
    """A file, so that some ids are of something."""
    body = (
        b'--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
        b'--b\r\ncontent-disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'
        b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n\r\n--b--\r\n'
    )
    headers = {"authorization": f"Bearer {key}", "content-type": "multipart/form-data; boundary=b"}
    with urllib.request.urlopen(urllib.request.Request(url + "/v1/files", body, headers), timeout=30) as reply:
        return json.load(reply)["id"]


def test_nothing_made_from_the_document_breaks_the_server(url, key, model):
    # One worker: threads race in a cache of Hypothesis, which then fails by itself.
    command = [
        str(Path(sys.executable).with_name("schemathesis")), "run", url + "/openapi.json",
        "-H", f"Authorization: Bearer {key}", "--checks", ",".join(CHECKS), "--phases", "coverage,fuzzing",
        "--max-examples", "10", "--seed", "1", "--workers", "1", "--request-timeout", "60", "--no-color",
    ]  # fmt: skip
    folder = Path(__file__).parent
    environment = os.environ | {
        "SCHEMATHESIS_HOOKS": "openapi_hooks",
        "PYTHONPATH": str(folder),
        "FALAJ_MODEL": model,
        "FALAJ_FILE": uploaded(url, key),
        "HYPOTHESIS_STORAGE_DIRECTORY": str(Path(sys.prefix) / "hypothesis"),
    }
    ran = subprocess.run(command, cwd=sys.prefix, env=environment, capture_output=True, text=True, timeout=900)
    assert ran.returncode == 0, ran.stdout[:20000] + ran.stderr[-2000:]
    generated = re.search(r"(\d+) generated", ran.stdout)
    assert generated and int(generated[1]) > 1000, ran.stdout[-2000:]
    print(ran.stdout[-400:])
