"""What schemathesis sends, kept short enough to be answered: a model that exists in most bodies, few tokens."""

import os

import schemathesis

MODEL = os.environ["FALAJ_MODEL"]


@schemathesis.hook
def map_body(context, body):
    if not isinstance(body, dict):
        return body
    if isinstance(body.get("model"), str) and len(body["model"]) % 4:
        body["model"] = MODEL
    # What is wrong stays wrong; what would take minutes is cut.
    for name in ("max_tokens", "max_completion_tokens", "min_tokens"):
        if isinstance(body.get(name), int):
            body[name] = min(body[name], 3)
    if isinstance(body.get("n"), int):
        body["n"] = min(body["n"], 3)
    if "messages" in body or "prompt" in body:
        body.setdefault("max_tokens", 3)
    return body


@schemathesis.hook
def map_path_parameters(context, parameters):
    """Half of the time something that is there."""
    name = parameters.get("id") if isinstance(parameters, dict) else None
    if isinstance(name, str) and len(name) % 2:
        path = context.operation.path
        parameters["id"] = MODEL if "/models/" in path else os.environ.get("FALAJ_FILE", name)
    return parameters
