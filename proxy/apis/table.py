"""Which APIs there are: the endpoints of all, and how each kind of model server is spoken with. Pure."""

from actors.messages import Api
from proxy.apis.anthropic import endpoints as anthropic
from proxy.apis.anthropic.client_errors import ANTHROPIC
from proxy.apis.interface import Dialect, ServerApi
from proxy.apis.llama_cpp import endpoints as llama_cpp
from proxy.apis.ollama import endpoints as ollama
from proxy.apis.ollama.client_errors import OLLAMA
from proxy.apis.openai import endpoints as openai
from proxy.apis.openai.client_errors import OPENAI
from proxy.apis.openai.responses import RESPONSES

ENDPOINTS = (*openai.ENDPOINTS, *anthropic.ENDPOINTS, *llama_cpp.ENDPOINTS, *ollama.ENDPOINTS)

SERVERS: dict[Api, ServerApi] = {"llama.cpp": llama_cpp.SERVER, "ollama": ollama.SERVER}

ENDS = tuple({endpoint.end for endpoint in ENDPOINTS if endpoint.end is not None})
"""How a stream of any of these APIs ends."""


def dialect_of(path: str) -> Dialect:
    """The dialect in which a path's errors are told, whether or not the path exists."""
    if path.startswith("/api/"):
        return OLLAMA
    if path == "/v1/messages" or path.startswith("/v1/messages/"):
        return ANTHROPIC
    return RESPONSES if path.endswith("/responses") else OPENAI
