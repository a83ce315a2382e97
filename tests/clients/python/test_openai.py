"""OpenAI's Python client against `/v1` (the superset) and `/openai/v1` (strictly OpenAI's)."""

import asyncio
import base64
import json
import struct
from typing import Literal

import openai
import pydantic
import pytest

from conftest import CALL_ID, CERTAIN, HELLO, HUGE, TOO_LONG, TOOLS, check_weather, talks, until


@pytest.fixture(params=["/v1", "/openai/v1"])
def base(request):
    return request.param


@pytest.fixture
def client(url, key, base):
    with openai.OpenAI(base_url=url + base, api_key=key, max_retries=0, timeout=120) as client:
        yield client


@pytest.fixture
def chat(client, model):
    def create(**options):
        options = {"model": model, "messages": HELLO, "max_tokens": 8} | options
        return client.chat.completions.create(**options)

    return create


def test_chat(chat, model):
    reply = chat()
    assert reply.object == "chat.completion"
    assert reply.model == model
    assert reply.id and reply.created > 1_700_000_000
    (choice,) = reply.choices
    assert choice.index == 0
    assert choice.message.role == "assistant"
    assert isinstance(choice.message.content, str)
    assert choice.finish_reason in ("stop", "length")


def test_usage_is_exact(chat):
    reply = chat(max_tokens=7, logprobs=True, extra_body={"min_tokens": 7})
    assert reply.choices[0].finish_reason == "length"
    assert reply.usage.completion_tokens == 7 == len(reply.choices[0].logprobs.content)
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + 7
    longer = chat(messages=HELLO + HELLO)
    assert longer.usage.prompt_tokens > reply.usage.prompt_tokens > 0


def test_stream_is_the_same_text_with_the_same_usage(chat):
    whole = chat(max_tokens=24, seed=3, temperature=0.7)
    chunks = list(chat(max_tokens=24, seed=3, temperature=0.7, stream=True, stream_options={"include_usage": True}))
    deltas = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
    assert "".join(deltas) == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1
    reasons = [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason]
    assert reasons == [whole.choices[0].finish_reason]
    counts = [chunk.usage for chunk in chunks if chunk.usage]
    assert len(counts) == 1
    assert counts[0].prompt_tokens == whole.usage.prompt_tokens
    assert counts[0].completion_tokens == whole.usage.completion_tokens


def test_usage_in_streams_comes_when_it_is_asked_for(chat, base):
    chunks = list(chat(stream=True))
    if base == "/openai/v1":
        assert not any(chunk.usage for chunk in chunks)
    asked = list(chat(stream=True, stream_options={"include_usage": True}))
    assert asked[-1].usage.completion_tokens > 0
    if base == "/openai/v1":
        assert asked[-1].choices == []


def test_stream_arrives_while_it_is_made(chat, gauges):
    stream = chat(stream=True, max_tokens=200, extra_body={"min_tokens": 200})
    chunks = iter(stream)
    next(chunks)
    # The first chunk is here, and the site is still at work on the rest: nothing was held back.
    assert gauges["falaj_engine_running"] >= 1
    assert len(list(chunks)) > 20
    gauges.until("falaj_engine_running", 0)


def test_closing_a_stream_cancels(chat, gauges):
    gauges.until("falaj_engine_running", 0)
    before = gauges["falaj_engine_cancelled_total"]
    stream = chat(stream=True, max_tokens=400, extra_body={"min_tokens": 400})
    next(iter(stream))
    stream.close()
    gauges.until("falaj_engine_running", 0)
    gauges.until("falaj_engine_pages_used", 0)
    gauges.until("falaj_engine_cancelled_total", before + 1)


def test_several_choices(chat):
    reply = chat(n=3, temperature=1.0, seed=11)
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    assert reply.usage.prompt_tokens == chat().usage.prompt_tokens
    chunks = list(chat(n=3, temperature=1.0, seed=11, stream=True))
    for choice in reply.choices:
        parts = [c.delta.content or "" for chunk in chunks for c in chunk.choices if c.index == choice.index]
        assert "".join(parts) == choice.message.content


def test_a_seed_repeats(chat):
    def say(seed):
        return chat(seed=seed, temperature=1.5, max_tokens=16).choices[0].message.content

    assert say(5) == say(5)
    assert len({say(seed) for seed in range(5)}) > 1


def test_logprobs(chat):
    reply = chat(logprobs=True, top_logprobs=3, temperature=0, max_tokens=4, extra_body={"min_tokens": 4})
    entries = reply.choices[0].logprobs.content
    assert len(entries) == 4
    for entry in entries:
        assert entry.logprob <= 0
        assert len(entry.top_logprobs) == 3
        ordered = [top.logprob for top in entry.top_logprobs]
        assert ordered == sorted(ordered, reverse=True)
        # Greedy: what was taken is the most likely.
        assert entry.token == entry.top_logprobs[0].token
        assert entry.logprob == pytest.approx(ordered[0])
    text = b"".join(bytes(entry.bytes) for entry in entries).decode(errors="replace")
    assert text.strip() == reply.choices[0].message.content.strip()


def test_logit_bias(chat):
    reply = chat(logit_bias={"300": 100}, temperature=0, logprobs=True, max_tokens=3, extra_body={"min_tokens": 3})
    assert len({tuple(entry.bytes) for entry in reply.choices[0].logprobs.content}) == 1


def test_stop(chat):
    schema = {"type": "json_schema", "json_schema": {"name": "certain", "schema": CERTAIN, "strict": True}}
    whole = chat(response_format=schema, max_tokens=60)
    assert json.loads(whole.choices[0].message.content) == {"word": "alphaSTOPomega"}
    cut = chat(response_format=schema, max_tokens=60, stop=["STOP", "never"])
    assert cut.choices[0].finish_reason == "stop"
    assert cut.choices[0].message.content == whole.choices[0].message.content.split("STOP")[0]
    chunks = list(chat(response_format=schema, max_tokens=60, stop="STOP", stream=True))
    streamed = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert streamed == cut.choices[0].message.content


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}], ids=["any", "named"])
def test_forced_tool(chat, choice):
    reply = chat(tools=TOOLS, tool_choice=choice, parallel_tool_calls=False, max_tokens=120)
    (call,) = reply.choices[0].message.tool_calls
    assert CALL_ID.fullmatch(call.id)
    assert call.type == "function"
    arguments = json.loads(call.function.arguments)
    if call.function.name == "get_weather":
        check_weather(arguments)
    else:
        assert choice == "required" and call.function.name == "get_time"
        assert set(arguments) == {"zone"}
    assert reply.choices[0].finish_reason in ("tool_calls", "stop")


def test_forced_tool_in_a_stream(client, model):
    options = {
        "model": model,
        "messages": HELLO,
        "max_tokens": 120,
        "tools": TOOLS,
        "tool_choice": {"type": "function", "function": {"name": "get_weather"}},
        "parallel_tool_calls": False,
        "temperature": 0,
    }
    with client.chat.completions.stream(**options) as stream:
        kinds = {event.type for event in stream}
        message = stream.get_final_completion().choices[0].message
    assert "tool_calls.function.arguments.delta" in kinds
    (call,) = message.tool_calls
    assert CALL_ID.fullmatch(call.id)
    assert call.function.name == "get_weather"
    check_weather(json.loads(call.function.arguments))
    whole = client.chat.completions.create(**options)
    assert whole.choices[0].message.tool_calls[0].function.arguments == call.function.arguments


def test_parallel_tools_are_each_valid(chat):
    reply = chat(tools=TOOLS, tool_choice="required", parallel_tool_calls=True, max_tokens=200)
    calls = reply.choices[0].message.tool_calls
    assert calls
    assert len({call.id for call in calls}) == len(calls)
    # One that the limit cut short may end anywhere.
    whole = calls[:-1] if reply.choices[0].finish_reason == "length" else calls
    for call in whole:
        assert call.function.name in ("get_weather", "get_time")
        json.loads(call.function.arguments)


def test_tool_results_round_trip(chat):
    call = {"id": "a1B2c3D4e", "type": "function", "function": {"name": "get_time", "arguments": '{"zone":"UTC"}'}}
    other = call | {"id": "f5G6h7I8j"}
    messages = HELLO + [
        {"role": "assistant", "content": None, "tool_calls": [call, other]},
        {"role": "tool", "tool_call_id": "a1B2c3D4e", "content": "12:00"},
        {"role": "tool", "tool_call_id": "f5G6h7I8j", "content": "16:00"},
    ]
    reply = chat(messages=messages, tools=TOOLS)
    assert reply.usage.prompt_tokens > chat(messages=HELLO, tools=TOOLS).usage.prompt_tokens


def test_no_tool_when_none_is_allowed(chat):
    reply = chat(tools=TOOLS, tool_choice="none", max_tokens=16)
    assert not reply.choices[0].message.tool_calls


def test_json_object(chat):
    reply = chat(response_format={"type": "json_object"}, max_tokens=200, temperature=0.3, seed=1)
    text = reply.choices[0].message.content
    assert text.lstrip().startswith("{")
    if reply.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(text), dict)


def test_json_schema_by_pydantic(client, model):
    class Stop(pydantic.BaseModel):
        name: Literal["Tunis", "Muscat"]
        open: bool

    class Trip(pydantic.BaseModel):
        kind: Literal["walk", "ride"]
        first: Stop
        second: Stop

    reply = client.chat.completions.parse(model=model, messages=HELLO, response_format=Trip, max_tokens=200)
    assert isinstance(reply.choices[0].message.parsed, Trip)


def test_content_parts_and_system_prompt(chat):
    parts = [{"type": "text", "text": "Hello! "}, {"type": "text", "text": "Bonjour ! مرحبا"}]
    assert chat(messages=[{"role": "user", "content": parts}]).usage.prompt_tokens > 0
    system = [{"role": "developer", "content": "Be brief."}, *HELLO]
    assert chat(messages=system).usage.prompt_tokens > chat().usage.prompt_tokens


def test_completions(client, model):
    reply = client.completions.create(model=model, prompt="The water", max_tokens=6, logprobs=2, extra_body={"min_tokens": 6})
    assert reply.object == "text_completion"
    assert reply.usage.completion_tokens == 6
    logprobs = reply.choices[0].logprobs
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.top_logprobs) == len(logprobs.text_offset) == 6
    both = client.completions.create(model=model, prompt=["The water", "L'eau"], max_tokens=4)
    assert [choice.index for choice in both.choices] == [0, 1]
    echo = client.completions.create(model=model, prompt="The water", max_tokens=2, echo=True)
    assert echo.choices[0].text.startswith("The water")
    scored = client.completions.create(model=model, prompt="The water", max_tokens=0, echo=True, logprobs=2)
    told = scored.choices[0].logprobs
    assert "".join(told.tokens).endswith("The water")
    assert told.token_logprobs[0] is None and all(value <= 0 for value in told.token_logprobs[1:])
    assert all(token in top for token, top in zip(told.tokens[1:], told.top_logprobs[1:]))
    tokens = client.completions.create(model=model, prompt=[100, 101, 102], max_tokens=1)
    assert tokens.usage.prompt_tokens == 3


def test_completions_stream(client, model):
    options = {"model": model, "prompt": "The water", "max_tokens": 16, "seed": 2, "temperature": 0.5}
    whole = client.completions.create(**options)
    chunks = list(client.completions.create(**options, stream=True))
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == whole.choices[0].text


def test_embeddings(client, model):
    words = ["water", "l'eau", "الماء"]
    by_default = client.embeddings.create(model=model, input=words)
    as_floats = client.embeddings.create(model=model, input=words, encoding_format="float")
    assert [item.index for item in by_default.data] == [0, 1, 2]
    # The client decodes base64 by itself unless the format is named.
    assert [item.embedding for item in by_default.data] == [
        pytest.approx(item.embedding, rel=1e-6) for item in as_floats.data
    ]
    raw = client.embeddings.create(model=model, input="water", encoding_format="base64").data[0].embedding
    data = base64.b64decode(raw)
    assert list(struct.unpack(f"<{len(data) // 4}f", data)) == pytest.approx(as_floats.data[0].embedding, rel=1e-6)
    assert as_floats.usage.prompt_tokens == as_floats.usage.total_tokens > 0
    # What stands beside it in the list changes nothing.
    alone = client.embeddings.create(model=model, input="water", encoding_format="float")
    assert alone.data[0].embedding == as_floats.data[0].embedding
    assert alone.data[0].embedding != as_floats.data[1].embedding


def test_models(client, model):
    listed = client.models.list()
    assert model in [entry.id for entry in listed]
    assert client.models.retrieve(model).id == model
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("no-such-model")


def test_a_wrong_key_is_refused(url, base, model):
    client = openai.OpenAI(base_url=url + base, api_key="wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError) as error:
        client.chat.completions.create(model=model, messages=HELLO)
    assert error.value.status_code == 401
    assert "key" in error.value.message


def test_an_unknown_model(chat, base):
    wanted = openai.NotFoundError if base == "/openai/v1" else openai.BadRequestError
    with pytest.raises(wanted) as error:
        chat(model="no-such-model")
    assert "no-such-model" in error.value.message
    assert error.value.request_id


def test_a_wrong_type(chat, base):
    wanted = openai.BadRequestError if base == "/openai/v1" else openai.UnprocessableEntityError
    with pytest.raises(wanted) as error:
        chat(extra_body={"temperature": "hot"})
    assert "temperature" in str(error.value)


def test_too_long_a_prompt(chat):
    with pytest.raises(openai.BadRequestError) as error:
        chat(messages=[{"role": "user", "content": TOO_LONG}])
    assert error.value.code == "context_length_exceeded"
    assert "context" in error.value.message


def test_too_large_a_body(chat):
    with pytest.raises(openai.APIStatusError) as error:
        chat(messages=[{"role": "user", "content": HUGE}])
    assert error.value.status_code == 413


def test_asynchronous_client(url, key, base, model):
    async def several():
        async with openai.AsyncOpenAI(base_url=url + base, api_key=key, max_retries=0) as client:
            replies = [client.chat.completions.create(model=model, messages=HELLO, max_tokens=4) for _ in range(4)]
            return await asyncio.gather(*replies)

    assert len({reply.choices[0].message.content for reply in asyncio.run(several())}) >= 1


def test_files(client):
    file = client.files.create(file=("talks.jsonl", talks()), purpose="fine-tune")
    assert (file.status, file.bytes) == ("processed", len(talks()))
    assert client.files.content(file.id).read() == talks()
    assert file.id in [listed.id for listed in client.files.list(limit=1)]
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)


def test_fine_tuning(url, key, model):
    with openai.OpenAI(base_url=url + "/openai/v1", api_key=key, max_retries=0, timeout=120) as client:
        jobs = client.fine_tuning.jobs
        file = client.files.create(file=("talks.jsonl", talks(8)), purpose="fine-tune")
        method = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 1, "batch_size": 1}}}
        job = jobs.create(model=model, training_file=file.id, method=method, seed=7, metadata={"port": "tangier"})
        assert (job.object, job.seed, job.metadata) == ("fine_tuning.job", 7, {"port": "tangier"})
        job = until(job, ["succeeded"], jobs.retrieve)
        assert job.trained_tokens > 0 and job.finished_at >= job.created_at
        assert any("SUCCESS" in event.message for event in jobs.list_events(job.id, limit=1))
        (checkpoint, *_) = jobs.checkpoints.list(job.id)
        assert checkpoint.metrics.train_loss > 0
        reply = client.chat.completions.create(model=job.fine_tuned_model, messages=HELLO, max_tokens=4)
        assert reply.choices
        assert client.models.delete(job.fine_tuned_model).deleted
        with pytest.raises(openai.BadRequestError):
            jobs.create(model=model, training_file="gone")
        client.files.delete(file.id)
