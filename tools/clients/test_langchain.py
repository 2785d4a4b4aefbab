r"""LangChain's own tests of chat models, on a running `kvant serve`.

    KVANT_URL=http://127.0.0.1:8080 pytest tools/clients/test_langchain.py -o asyncio_mode=auto \
        -o asyncio_default_test_loop_scope=session -o asyncio_default_fixture_loop_scope=session

    pip install langchain-tests langchain-openai pytest pytest-asyncio

The model needs a chat template. Tests of images are out: the server reads text.
"""

import os

from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests


class TestServe(ChatModelIntegrationTests):
    @property
    def chat_model_class(self):
        return ChatOpenAI

    @property
    def chat_model_params(self):
        url = os.environ.get("KVANT_URL", "http://127.0.0.1:8080")
        return {"base_url": f"{url}/v1", "api_key": "none", "model": "any", "temperature": 0, "max_tokens": 200, "stream_usage": True}

    @property
    def has_tool_choice(self):
        return True

    @property
    def supports_json_mode(self):
        return True
