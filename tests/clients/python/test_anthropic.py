"""Anthropic's Python client against `/v1/messages`."""

import concurrent.futures
import json

import anthropic
import pytest

from conftest import CERTAIN, CLOCK, HELLO, HUGE, TOO_LONG, WEATHER, check_weather

TOOLS = [
    {"name": "get_weather", "description": "The weather in a city", "input_schema": WEATHER},
    {"name": "get_time", "description": "The time in a zone", "input_schema": CLOCK},
]

# The API has it, the client's signature no longer.
GREEDY = {"temperature": 0}


@pytest.fixture
def client(url, key):
    with anthropic.Anthropic(base_url=url, api_key=key, max_retries=0, timeout=120) as client:
        yield client


@pytest.fixture
def create(client, model):
    def send(**options):
        return client.messages.create(**{"model": model, "messages": HELLO, "max_tokens": 8} | options)

    return send


def text_of(message):
    return "".join(block.text for block in message.content if block.type == "text")


def test_message(create, model):
    reply = create()
    assert reply.type == "message"
    assert reply.role == "assistant"
    assert reply.model == model
    assert reply.id
    assert reply.stop_reason in ("end_turn", "max_tokens")
    assert reply.usage.input_tokens > 0
    assert 0 < reply.usage.output_tokens <= 8


def test_stream(client, model):
    options = {"model": model, "messages": HELLO, "max_tokens": 24, "extra_body": GREEDY}
    whole = client.messages.create(**options)
    with client.messages.stream(**options) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_message()
    assert text_of(final) == text_of(whole)
    assert final.usage.output_tokens == whole.usage.output_tokens
    assert final.usage.input_tokens == whole.usage.input_tokens
    assert final.stop_reason == whole.stop_reason
    assert kinds[0] == "message_start" and kinds[-1] == "message_stop"
    for kind in ("content_block_start", "content_block_delta", "content_block_stop", "message_delta"):
        assert kind in kinds


def test_closing_a_stream_cancels(client, model, gauges):
    gauges.until("falaj_engine_running", 0)
    long = {"type": "object", "properties": {"text": {"type": "string", "minLength": 600, "maxLength": 700}}, "required": ["text"]}
    form = {"format": {"type": "json_schema", "schema": long}}
    with client.messages.stream(model=model, messages=HELLO, max_tokens=900, output_config=form) as stream:
        for event in stream:
            if event.type == "content_block_delta":
                break
        assert gauges["falaj_engine_running"] == 1
        before = gauges["falaj_engine_cancelled_total"]
    gauges.until("falaj_engine_running", 0)
    gauges.until("falaj_engine_cancelled_total", before + 1)


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "get_weather"}], ids=["any", "named"])
def test_forced_tool(create, choice):
    reply = create(tools=TOOLS, tool_choice=choice | {"disable_parallel_tool_use": True}, max_tokens=120)
    (call,) = [block for block in reply.content if block.type == "tool_use"]
    assert call.id
    if call.name == "get_weather":
        check_weather(call.input)
    else:
        assert choice["type"] == "any" and set(call.input) == {"zone"}
    assert reply.stop_reason == "tool_use"


def test_forced_tool_in_a_stream(client, model):
    choice = {"type": "tool", "name": "get_weather", "disable_parallel_tool_use": True}
    with client.messages.stream(model=model, messages=HELLO, max_tokens=120, tools=TOOLS, tool_choice=choice) as stream:
        parts = [event.partial_json for event in stream if event.type == "input_json"]
        final = stream.get_final_message()
    (call,) = [block for block in final.content if block.type == "tool_use"]
    check_weather(call.input)
    assert json.loads("".join(parts)) == call.input
    assert final.stop_reason == "tool_use"


def test_tool_results_round_trip(create):
    asked = create(tools=TOOLS, tool_choice={"type": "any", "disable_parallel_tool_use": True}, max_tokens=120)
    (call,) = [block for block in asked.content if block.type == "tool_use"]
    result = {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "sunny, 24"}]}
    messages = [*HELLO, {"role": "assistant", "content": asked.content}, {"role": "user", "content": [result]}]
    reply = create(messages=messages, tools=TOOLS)
    assert reply.usage.input_tokens > asked.usage.input_tokens


def test_json_schema(create):
    reply = create(output_config={"format": {"type": "json_schema", "schema": CERTAIN}}, max_tokens=60)
    assert json.loads(text_of(reply)) == {"word": "alphaSTOPomega"}


def test_stop_sequence(create):
    form = {"format": {"type": "json_schema", "schema": CERTAIN}}
    reply = create(output_config=form, stop_sequences=["STOP"], max_tokens=60)
    assert reply.stop_reason == "stop_sequence"
    assert reply.stop_sequence == "STOP"
    assert text_of(reply).endswith("alpha")


def test_count_tokens_is_what_a_message_uses(client, create, model):
    system = "You speak of water."
    counted = client.messages.count_tokens(model=model, messages=HELLO, system=system, tools=TOOLS)
    reply = create(system=system, tools=TOOLS)
    cached = (reply.usage.cache_read_input_tokens or 0) + (reply.usage.cache_creation_input_tokens or 0)
    assert counted.input_tokens == reply.usage.input_tokens + cached
    assert counted.input_tokens > client.messages.count_tokens(model=model, messages=HELLO).input_tokens


def test_prefill_is_continued(create):
    reply = create(messages=[*HELLO, {"role": "assistant", "content": "The water of the"}], extra_body=GREEDY)
    assert not text_of(reply).startswith("The water of the")


def test_models(client, model):
    assert model in [entry.id for entry in client.models.list()]
    assert client.models.retrieve(model).type == "model"
    with pytest.raises(anthropic.NotFoundError):
        client.models.retrieve("no-such-model")


def test_a_wrong_key_is_refused(url, model):
    client = anthropic.Anthropic(base_url=url, api_key="wrong", max_retries=0)
    with pytest.raises(anthropic.AuthenticationError) as error:
        client.messages.create(model=model, messages=HELLO, max_tokens=4)
    assert error.value.body["error"]["type"] == "authentication_error"


def test_an_unknown_model(create):
    with pytest.raises(anthropic.NotFoundError) as error:
        create(model="no-such-model")
    assert error.value.body["type"] == "error"
    assert "no-such-model" in error.value.body["error"]["message"]


def test_a_wrong_type(create):
    with pytest.raises(anthropic.BadRequestError) as error:
        create(extra_body={"temperature": "hot"})
    assert error.value.body["error"]["type"] == "invalid_request_error"
    assert "temperature" in error.value.body["error"]["message"]


def test_too_long_a_prompt(create):
    with pytest.raises(anthropic.BadRequestError) as error:
        create(messages=[{"role": "user", "content": TOO_LONG}])
    assert "context" in error.value.body["error"]["message"]


def test_too_large_a_body(create):
    with pytest.raises(anthropic.APIStatusError) as error:
        create(messages=[{"role": "user", "content": HUGE}])
    assert error.value.status_code == 413
    assert error.value.body["error"]["type"] == "request_too_large"


def test_eight_threads(client, model):
    def ask(_):
        with client.messages.stream(model=model, messages=HELLO, max_tokens=24, extra_body=GREEDY) as stream:
            return "".join(stream.text_stream)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(ask, range(8)))) == 1
