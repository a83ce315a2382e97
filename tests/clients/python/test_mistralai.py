"""Mistral's Python client, in its first, second and third major version: one file, run in three environments."""

import asyncio
import concurrent.futures
import json
from typing import Literal

import pydantic
import pytest

from conftest import CALL_ID, CERTAIN, HELLO, HUGE, TOO_LONG, TOOLS, check_weather, talks, until

try:
    from mistralai.client import Mistral
    from mistralai.client.errors import HTTPValidationError, SDKError
except ImportError:
    # The first major version.
    from mistralai import Mistral
    from mistralai.models import HTTPValidationError, SDKError


@pytest.fixture
def client(url, key):
    with Mistral(api_key=key, server_url=url, timeout_ms=120_000) as client:
        yield client


@pytest.fixture
def chat(client, model):
    def complete(**options):
        return client.chat.complete(**{"model": model, "messages": HELLO, "max_tokens": 8} | options)

    return complete


@pytest.fixture
def stream(client, model):
    def start(**options):
        return client.chat.stream(**{"model": model, "messages": HELLO, "max_tokens": 8} | options)

    return start


SCHEMA = {"type": "json_schema", "json_schema": {"name": "certain", "schema": CERTAIN, "strict": True}}


def test_chat(chat, model):
    reply = chat()
    assert reply.object == "chat.completion"
    assert reply.model == model
    (choice,) = reply.choices
    assert choice.message.role == "assistant"
    assert isinstance(choice.message.content, str)
    assert choice.finish_reason in ("stop", "length")
    usage = reply.usage
    assert usage.prompt_tokens > 0
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_stream_is_the_same_text_with_the_same_usage(chat, stream):
    options = {"max_tokens": 24, "random_seed": 3, "temperature": 0.7}
    whole = chat(**options)
    chunks = [event.data for event in stream(**options)]
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == whole.choices[0].message.content
    counts = [chunk.usage for chunk in chunks if chunk.usage]
    assert len(counts) == 1 and chunks[-1].usage
    assert counts[0].prompt_tokens == whole.usage.prompt_tokens
    assert counts[0].completion_tokens == whole.usage.completion_tokens
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason


def test_closing_a_stream_cancels(stream, gauges):
    gauges.until("falaj_engine_running", 0)
    # A pattern that cannot end before 300 characters keeps the site at work.
    long = {"type": "object", "properties": {"text": {"type": "string", "minLength": 600, "maxLength": 700}}, "required": ["text"]}
    events = stream(max_tokens=900, response_format={"type": "json_schema", "json_schema": {"name": "long", "schema": long}})
    next(iter(events))
    assert gauges["falaj_engine_running"] == 1
    before = gauges["falaj_engine_cancelled_total"]
    events.response.close()
    gauges.until("falaj_engine_running", 0)
    gauges.until("falaj_engine_cancelled_total", before + 1)


def test_a_seed_repeats(chat):
    def say(seed):
        return chat(random_seed=seed, temperature=1.5, max_tokens=16).choices[0].message.content

    assert say(5) == say(5)
    assert len({say(seed) for seed in range(5)}) > 1


def test_several_choices(chat):
    reply = chat(n=2, temperature=1.0)
    assert [choice.index for choice in reply.choices] == [0, 1]


def test_stop(chat):
    reply = chat(response_format=SCHEMA, stop=["STOP"], max_tokens=60)
    assert reply.choices[0].finish_reason == "stop"
    assert reply.choices[0].message.content.endswith("alpha")


def test_prefix_is_continued(chat):
    messages = [*HELLO, {"role": "assistant", "content": "The water of the", "prefix": True}]
    reply = chat(messages=messages, temperature=0)
    # The prefix comes back in front of what the model adds.
    assert reply.choices[0].message.content.startswith("The water of the")


@pytest.mark.parametrize(
    "choice", ["any", "required", {"type": "function", "function": {"name": "get_weather"}}], ids=["any", "required", "named"]
)
def test_forced_tool(chat, choice):
    reply = chat(tools=TOOLS, tool_choice=choice, parallel_tool_calls=False, max_tokens=120)
    (call,) = reply.choices[0].message.tool_calls
    assert CALL_ID.fullmatch(call.id)
    arguments = json.loads(call.function.arguments)
    if call.function.name == "get_weather":
        check_weather(arguments)
    else:
        assert not isinstance(choice, dict)
        assert set(arguments) == {"zone"}
    assert reply.choices[0].finish_reason == "tool_calls"


def test_forced_tool_in_a_stream(stream):
    named = {"type": "function", "function": {"name": "get_weather"}}
    chunks = [event.data for event in stream(tools=TOOLS, tool_choice=named, parallel_tool_calls=False, max_tokens=120)]
    calls = [call for chunk in chunks for choice in chunk.choices for call in choice.delta.tool_calls or []]
    (call,) = calls
    assert CALL_ID.fullmatch(call.id)
    check_weather(json.loads(call.function.arguments))
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_tool_results_round_trip(chat):
    asked = chat(tools=TOOLS, tool_choice="any", parallel_tool_calls=False, max_tokens=120)
    message = asked.choices[0].message
    (call,) = message.tool_calls
    result = {"role": "tool", "tool_call_id": call.id, "name": call.function.name, "content": "sunny, 24"}
    reply = chat(messages=[*HELLO, message, result], tools=TOOLS)
    assert reply.usage.prompt_tokens > asked.usage.prompt_tokens


def test_json_object(chat):
    reply = chat(response_format={"type": "json_object"}, max_tokens=200, temperature=0.3, random_seed=1)
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

    reply = client.chat.parse(Trip, model=model, messages=HELLO, max_tokens=200)
    assert isinstance(reply.choices[0].message.parsed, Trip)


def test_fim(client, model):
    reply = client.fim.complete(model=model, prompt="The water of", suffix="the village.", max_tokens=8, min_tokens=8)
    assert reply.usage.completion_tokens == 8
    assert isinstance(reply.choices[0].message.content, str)
    assert reply.choices[0].finish_reason == "length"
    options = {"model": model, "prompt": "The water", "suffix": "village", "max_tokens": 16, "random_seed": 4, "temperature": 0.6}
    whole = client.fim.complete(**options)
    chunks = [event.data for event in client.fim.stream(**options)]
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_embeddings(client, model):
    reply = client.embeddings.create(model=model, inputs=["water", "الماء"])
    assert [item.index for item in reply.data] == [0, 1]
    first, second = (item.embedding for item in reply.data)
    assert len(first) == len(second) > 0 and first != second
    assert reply.usage.prompt_tokens > 0
    alone = client.embeddings.create(model=model, inputs="water")
    assert alone.data[0].embedding == first


def test_models(client, model):
    (card,) = [card for card in client.models.list().data if card.id == model]
    assert card.type == "base"
    assert card.capabilities.completion_chat
    assert card.max_context_length > 0
    assert client.models.retrieve(model_id=model).id == model
    with pytest.raises(SDKError) as error:
        client.models.retrieve(model_id="no-such-model")
    assert error.value.status_code == 404


def test_a_wrong_key_is_refused(url, model):
    with Mistral(api_key="wrong", server_url=url) as client, pytest.raises(SDKError) as error:
        client.chat.complete(model=model, messages=HELLO)
    assert error.value.status_code == 401


def test_an_unknown_model(chat, stream):
    for ask in (chat, stream):
        with pytest.raises(SDKError) as error:
            ask(model="no-such-model")
        assert error.value.status_code == 400
        body = json.loads(error.value.body)
        assert body["type"] == "invalid_model"
        assert "no-such-model" in body["message"]


def test_a_wrong_value(chat):
    with pytest.raises(HTTPValidationError) as error:
        chat(temperature=99.0)
    assert error.value.status_code == 422
    (problem,) = error.value.data.detail
    assert problem.loc == ["body", "temperature"]
    assert problem.msg and problem.type


def test_too_long_a_prompt(chat):
    with pytest.raises(SDKError) as error:
        chat(messages=[{"role": "user", "content": TOO_LONG}])
    assert error.value.status_code == 400
    assert "context" in error.value.body


def test_too_large_a_body(chat):
    with pytest.raises(SDKError) as error:
        chat(messages=[{"role": "user", "content": HUGE}])
    assert error.value.status_code == 413


def test_asynchronous_client(url, key, model):
    async def several():
        async with Mistral(api_key=key, server_url=url) as client:
            texts = []
            async for event in await client.chat.stream_async(model=model, messages=HELLO, max_tokens=6):
                texts.append(event.data.choices[0].delta.content or "")
            whole = await client.chat.complete_async(model=model, messages=HELLO, max_tokens=6, temperature=0)
            return texts, whole

    texts, whole = asyncio.run(several())
    assert texts and whole.choices


def test_eight_threads(client, model):
    def ask(seed):
        events = client.chat.stream(model=model, messages=HELLO, max_tokens=24, random_seed=seed % 4, temperature=1.0)
        return "".join(choice.delta.content or "" for event in events for choice in event.data.choices)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(8)))
    assert answers[:4] == answers[4:]


@pytest.fixture
def tuning(client):
    # The third major version has no fine-tuning.
    if not hasattr(client, "fine_tuning"):
        pytest.skip("this client has no fine-tuning")
    return client.fine_tuning.jobs


def test_files(client):
    file = client.files.upload(file={"file_name": "talks.jsonl", "content": talks()}, purpose="fine-tune")
    assert (file.num_lines, file.sample_type, file.size_bytes) == (40, "instruct", len(talks()))
    assert client.files.retrieve(file_id=file.id).filename == "talks.jsonl"
    assert client.files.download(file_id=file.id).read() == talks()
    assert file.id in [listed.id for listed in client.files.list().data]
    assert file.id in client.files.get_signed_url(file_id=file.id).url
    assert client.files.delete(file_id=file.id).deleted


def test_a_model_is_tuned_served_renamed_and_deleted(client, tuning, model):
    file = client.files.upload(file={"file_name": "talks.jsonl", "content": talks()}, purpose="fine-tune")
    ask = {
        "model": model,
        "training_files": [{"file_id": file.id, "weight": 1}],
        "hyperparameters": {"training_steps": 2, "learning_rate": 1e-4, "seq_len": 64},
    }
    job = tuning.create(**ask, suffix="port", auto_start=False)
    job = until(job, ["VALIDATED"], lambda id: tuning.get(job_id=id))
    job = until(tuning.start(job_id=job.id), ["SUCCESS"], lambda id: tuning.get(job_id=id))
    assert job.trained_tokens > 0
    assert [event.data["status"] for event in job.events if event.name == "status-updated"][0] == "SUCCESS"
    assert job.checkpoints[0].metrics.train_loss > 0
    tuned = job.fine_tuned_model
    assert tuned.startswith(f"ft-{model}-port-")
    reply = client.chat.complete(model=tuned, messages=HELLO, max_tokens=4)
    assert reply.model == tuned
    assert client.models.update(model_id=tuned, name="Port").name == "Port"
    assert client.models.archive(model_id=tuned).archived
    with pytest.raises(SDKError):
        client.chat.complete(model=tuned, messages=HELLO, max_tokens=4)
    assert not client.models.unarchive(model_id=tuned).archived
    assert client.models.delete(model_id=tuned).deleted
    client.files.delete(file_id=file.id)


def test_a_running_job_is_cancelled(client, tuning, model):
    file = client.files.upload(file={"file_name": "talks.jsonl", "content": talks()}, purpose="fine-tune")
    hyperparameters = {"training_steps": 100_000, "learning_rate": 1e-4, "seq_len": 256}
    job = tuning.create(model=model, training_files=[{"file_id": file.id}], hyperparameters=hyperparameters)
    job = until(job, ["RUNNING"], lambda id: tuning.get(job_id=id))
    until(tuning.cancel(job_id=job.id), ["CANCELLED"], lambda id: tuning.get(job_id=id))
    client.files.delete(file_id=file.id)


def test_bad_data_fails_validation(client, tuning, model):
    file = client.files.upload(file={"file_name": "bad.jsonl", "content": b'{"messages": 7}'}, purpose="fine-tune")
    job = tuning.create(model=model, training_files=[{"file_id": file.id}], hyperparameters={"training_steps": 1})
    job = until(job, ["FAILED_VALIDATION"], lambda id: tuning.get(job_id=id))
    assert "line 1" in str(job.events[0].data["error"])
    client.files.delete(file_id=file.id)
