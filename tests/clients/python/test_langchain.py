"""LangChain's standard integration tests for chat models, through `langchain-mistralai`. Left out, each with its reason,
are those that hang on a model's skill; everything else must hold."""

import pytest
from langchain_mistralai import ChatMistralAI
from langchain_tests.integration_tests import ChatModelIntegrationTests

from conftest import KEY, MODEL, URL

SKILL = {
    "test_tool_calling": "wants the number 3 copied from the question into the call",
    "test_tool_calling_async": "wants the number 3 copied from the question into the call",
    "test_unicode_tool_call_integration": "wants a Chinese name copied from the question into the call",
    "test_agent_loop": "wants the model to choose a tool by itself",
    "test_json_mode": "wants the model to choose the right keys without a schema",
}
NOT_OURS = {
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
        }

    @property
    def supports_json_mode(self):
        return True

    @property
    def model_override_value(self):
        return MODEL


def skip(name, why):
    @pytest.mark.skip(reason=f"{name}: {why}")
    def left_out(self):
        pass

    setattr(TestChatMistralAI, name, left_out)


for _name, _why in (SKILL | NOT_OURS).items():
    assert hasattr(TestChatMistralAI, _name), f"{_name} is no longer one of the standard tests"
    skip(_name, _why)
