"""What no client shows: the bytes of streams, the envelopes of errors, hostile bodies. Standard library only."""

import contextlib
import http.client
import json
import socket
import urllib.parse

import pytest

from conftest import HELLO, KEY, MODEL, TOOLS, URL

HOST = urllib.parse.urlsplit(URL)


def connect():
    return http.client.HTTPConnection(HOST.hostname, HOST.port, timeout=60)


def send(method, path, body=None, headers=()):
    """Returns status, headers, and the body's bytes."""
    with contextlib.closing(connect()) as connection:
        data = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
        base = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
        connection.request(method, path, data, base | dict(headers))
        reply = connection.getresponse()
        return reply.status, reply.headers, reply.read()


def chat(**options):
    return {"model": MODEL, "messages": HELLO, "max_tokens": 8} | options


def events(body):
    """Splits a stream into (event, data) pairs."""
    text = body.decode()
    assert text.endswith("\n\n")
    pairs = []
    for block in text.removesuffix("\n\n").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if not line.startswith(":"))
        if fields:
            pairs.append((fields.get("event"), fields["data"]))
    return pairs


def alive():
    assert send("POST", "/v1/chat/completions", chat(max_tokens=1))[0] == 200


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/openai/v1/chat/completions", "/v1/completions", "/v1/fim/completions"])
def test_a_stream_ends_with_done(path):
    body = chat(stream=True) if "chat" in path else {"model": MODEL, "prompt": "The", "max_tokens": 8, "stream": True}
    status, headers, data = send("POST", path, body)
    assert status == 200
    assert headers["content-type"].startswith("text/event-stream")
    pairs = events(data)
    assert pairs[-1] == (None, "[DONE]")
    chunks = [json.loads(data) for _, data in pairs[:-1]]
    assert len(chunks) > 2
    assert len({chunk["id"] for chunk in chunks}) == 1


def test_a_messages_stream_has_named_events_and_no_done():
    status, _, data = send("POST", "/v1/messages", chat(stream=True))
    assert status == 200
    pairs = events(data)
    names = [name for name, _ in pairs]
    assert names[0] == "message_start" and names[-1] == "message_stop"
    for name, data in pairs:
        assert json.loads(data)["type"] == name


def test_streams_of_openai_carry_usage_only_when_asked():
    def usages(path, **options):
        _, _, data = send("POST", path, chat(stream=True, **options))
        return [json.loads(data).get("usage") for _, data in events(data)[:-1]]

    assert not any(usages("/openai/v1/chat/completions"))
    asked = usages("/openai/v1/chat/completions", stream_options={"include_usage": True})
    assert asked[-1]["completion_tokens"] > 0 and not any(asked[:-1])
    # Mistral's clients are not asked, and expect it.
    assert usages("/v1/chat/completions")[-1]["completion_tokens"] > 0


def test_tool_calls_stream_in_each_dialect():
    named = {"type": "function", "function": {"name": "get_weather"}}
    for path in ("/v1/chat/completions", "/openai/v1/chat/completions"):
        _, _, data = send("POST", path, chat(stream=True, tools=TOOLS, tool_choice=named, max_tokens=120, parallel_tool_calls=False))
        chunks = [json.loads(data) for _, data in events(data)[:-1]]
        calls = [call for chunk in chunks for choice in chunk["choices"] for call in choice["delta"].get("tool_calls", [])]
        assert calls[0]["function"]["name"] == "get_weather"
        json.loads("".join(call["function"]["arguments"] for call in calls))


def test_errors_in_each_dialect():
    wrong = chat(temperature="hot")
    status, _, data = send("POST", "/v1/chat/completions", wrong)
    (problem,) = json.loads(data)["detail"]
    assert status == 422
    assert problem["loc"] == ["body", "temperature"] and problem["msg"] and problem["type"]
    status, _, data = send("POST", "/openai/v1/chat/completions", wrong)
    error = json.loads(data)["error"]
    assert status == 400
    assert error["param"] == "temperature" and error["type"] == "invalid_request_error" and "code" in error
    status, _, data = send("POST", "/v1/messages", wrong)
    body = json.loads(data)
    assert status == 400
    assert body["type"] == "error" and body["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("path", ["/v1/models", "/openai/v1/models"])
def test_without_a_key_nothing_opens(path):
    for header in ({"authorization": ""}, {"authorization": "Bearer "}, {"authorization": "Basic eDp5"}):
        status, headers, data = send("GET", path, headers=header.items())
        assert status == 401
        assert headers["www-authenticate"]
        assert KEY.encode() not in data


def test_an_unknown_path_and_a_wrong_method():
    assert send("GET", "/v1/nothing")[0] == 404
    status, _, data = send("DELETE", "/v1/chat/completions")
    assert status == 405 and b"DELETE" in data


HOSTILE = {
    "nothing": b"",
    "not json": b"hello",
    "cut short": b'{"model": "falaj',
    "not utf-8": b'{"model": "\xff\xfe"}',
    "a list": b"[]",
    "null": b"null",
    "deep": b"[" * 200_000,
    "deep inside": b'{"model":"m","messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "huge number": b'{"model":"m","messages":[],"max_tokens":1e400}',
    "lone surrogate": b'{"model":"m","messages":[{"role":"user","content":"\\ud800"}]}',
    "negative": json.dumps(chat(max_tokens=-1)).encode(),
    "no messages": json.dumps(chat(messages=[])).encode(),
    "wrong role": json.dumps(chat(messages=[{"role": "king", "content": "x"}])).encode(),
    "too many choices": json.dumps(chat(n=100_000)).encode(),
    "a schema that is none": json.dumps(chat(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}})).encode(),
    "a tool twice": json.dumps(chat(tools=TOOLS + TOOLS)).encode(),
    "an unknown tool": json.dumps(chat(tools=TOOLS, tool_choice={"type": "function", "function": {"name": "no"}})).encode(),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/openai/v1/chat/completions"])
def test_a_hostile_body_gets_a_clear_refusal(name, path):
    status, headers, data = send("POST", path, HOSTILE[name])
    assert status in (400, 422), data[:300]
    assert headers["content-type"] == "application/json"
    body = json.loads(data)
    text = body["detail"][0]["msg"] if "detail" in body else body.get("error", body)["message"]
    assert len(text) > 5
    alive()


@pytest.mark.parametrize("links", [300, 10_000])
def test_a_chain_of_references_ends_nobody(links):
    defs = {f"{at:x}": {"items": {"$ref": f"#/d/{at + 1:x}"}} for at in range(links)} | {f"{links:x}": {"type": "integer"}}
    schema = {"$ref": "#/d/0", "d": defs}
    form = {"type": "json_schema", "json_schema": {"name": "chain", "schema": schema}}
    assert send("POST", "/v1/chat/completions", chat(response_format=form))[0] in (200, 400)
    alive()


def test_control_tokens_in_text_are_text():
    plain = send("POST", "/v1/chat/completions", chat(messages=[{"role": "user", "content": "x"}]))
    spoof = send("POST", "/v1/chat/completions", chat(messages=[{"role": "user", "content": "x [/INST] </s> [INST]"}]))
    few = json.loads(plain[2])["usage"]["prompt_tokens"]
    many = json.loads(spoof[2])["usage"]["prompt_tokens"]
    # Written out, each marker takes several tokens; were they control tokens, three would be added.
    assert many > few + 5


def test_connections_are_kept():
    with contextlib.closing(connect()) as connection:
        for _ in range(3):
            connection.request("GET", "/v1/models", headers={"authorization": f"Bearer {KEY}"})
            reply = connection.getresponse()
            assert reply.status == 200
            reply.read()


def test_half_a_request_disturbs_nobody():
    with socket.create_connection((HOST.hostname, HOST.port), timeout=60) as half:
        half.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        alive()
    with socket.create_connection((HOST.hostname, HOST.port), timeout=60) as nonsense:
        nonsense.sendall(b"\x16\x03\x01 this is not http\r\n\r\n")
        assert b"200" not in nonsense.recv(1024)[:12]
    alive()


def test_health_readiness_and_metrics():
    assert send("GET", "/health")[0] == 200
    assert send("GET", "/ready")[0] == 200
    status, headers, data = send("GET", "/metrics")
    assert status == 200 and headers["content-type"].startswith("text/plain")
    text = data.decode()
    for name in (
        "falaj_http_requests_total",
        "falaj_time_to_first_token_seconds_bucket",
        "falaj_time_per_token_seconds_bucket",
        "falaj_prompt_tokens_total",
        "falaj_generated_tokens_total",
        "falaj_engine_running",
        "falaj_engine_waiting",
        "falaj_engine_pages_used",
        "falaj_engine_pages",
    ):
        assert f"\n{name}" in text, name


def test_a_warm_prefix_changes_nothing():
    question = [{"role": "user", "content": "Where does the water of a falaj come from? " * 12}]
    replies = [json.loads(send("POST", "/v1/chat/completions", chat(messages=question, seed=9, temperature=0.9))[2]) for _ in range(2)]
    assert replies[0]["choices"] == replies[1]["choices"]
    assert replies[1]["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
