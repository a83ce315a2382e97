"""Thirty-two clients at once, of all kinds: nobody errs, and nobody's answer depends on who else is there."""

import concurrent.futures

import openai
import pytest

from conftest import CERTAIN, TOOLS

CLIENTS = 32


@pytest.fixture(scope="module")
def client(url, key):
    with openai.OpenAI(base_url=url + "/v1", api_key=key, max_retries=0, timeout=300) as client:
        yield client


def perform(client, model, job):
    """One of six kinds of request, decided by the number; returns what must repeat."""
    kind, seed = job % 6, job // 6
    messages = [{"role": "user", "content": f"Tell me about water, number {seed}. أخبرني عن الماء"}]
    common = {"model": model, "max_tokens": 16 + job, "temperature": 0.9, "seed": seed}
    if kind == 0:
        return client.chat.completions.create(messages=messages, **common).choices[0].message.content
    if kind == 1:
        chunks = client.chat.completions.create(messages=messages, stream=True, **common)
        return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    if kind == 2:
        return client.completions.create(prompt="The channel", **common).choices[0].text
    if kind == 3:
        return client.embeddings.create(model=model, input=f"water {seed}", encoding_format="float").data[0].embedding
    if kind == 4:
        schema = {"type": "json_schema", "json_schema": {"name": "certain", "schema": CERTAIN, "strict": True}}
        return client.chat.completions.create(messages=messages, response_format=schema, **common).choices[0].message.content
    reply = client.chat.completions.create(
        messages=messages, tools=TOOLS, tool_choice="required", parallel_tool_calls=False, **common | {"max_tokens": 100}
    )
    return [(call.function.name, call.function.arguments) for call in reply.choices[0].message.tool_calls]


def test_answers_do_not_depend_on_company(client, model, gauges):
    alone = [perform(client, model, job) for job in range(CLIENTS)]
    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
        together = list(pool.map(lambda job: perform(client, model, job), range(CLIENTS)))
    assert together == alone
    gauges.until("falaj_engine_running", 0)
    gauges.until("falaj_engine_waiting", 0)


def test_a_bad_request_does_not_disturb_the_others(client, model):
    def ask(number):
        if number % 2:
            with pytest.raises(openai.APIStatusError):
                client.chat.completions.create(model=model, messages=[{"role": "user", "content": "x"}], temperature=-4)
            return None
        reply = client.chat.completions.create(model=model, messages=[{"role": "user", "content": "x"}], max_tokens=24, temperature=0)
        return reply.choices[0].message.content

    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
        answers = list(pool.map(ask, range(CLIENTS)))
    assert len(set(answers[::2])) == 1
