"""Lists all APIs: their endpoints, and the codec of each kind of model server. Pure."""

from collections.abc import Container

from actors.messages import ServerApiName
from proxy.apis.anthropic import endpoints as anthropic
from proxy.apis.anthropic.models import VERSION_HEADER
from proxy.apis.interface import Dialect, ServerApi
from proxy.apis.llama_cpp import endpoints as llama_cpp
from proxy.apis.ollama import endpoints as ollama
from proxy.apis.openai import endpoints as openai
from proxy.apis.responses import endpoints as responses

APIS = (openai.API, responses.API, anthropic.API, llama_cpp.API, ollama.API)

ENDPOINTS = tuple(endpoint for api in APIS for endpoint in api.endpoints)

SERVERS: dict[ServerApiName, ServerApi] = {api.server.name: api.server for api in APIS if api.server}

STREAM_ENDS = tuple({endpoint.stream_end for endpoint in ENDPOINTS if endpoint.stream_end is not None})
"""The ends of the streams of all APIs."""

_DIALECTS = {
    **{f"{prefix}/": api.dialect for api in APIS for prefix in api.prefixes},
    **{f"{path}/": endpoint.dialect for endpoint in ENDPOINTS for path in endpoint.paths},
}


MODEL_PATHS = ("/models", "/v1/models")


def is_for_anthropic(path: str, headers: Container[str]) -> bool:
    """Whether a client of Anthropic's API asks for the list of models, whose path OpenAI's API has too."""
    return VERSION_HEADER in headers and f"{path}/".startswith(tuple(f"{known}/" for known in MODEL_PATHS))


def dialect_of(path: str, headers: Container[str] = ()) -> Dialect:
    """Return the dialect for errors of a path, whether or not the path exists: OpenAI's if no API has it.

    An API's path may follow a prefix: that of a model below `/upstream/`, or of a base URL that is too long.
    """
    if is_for_anthropic(path, headers):
        return anthropic.API.dialect
    below = f"{path}/"
    known = [prefix for prefix in _DIALECTS if below.startswith(prefix)]
    known = known or [prefix for prefix in _DIALECTS if prefix in below]
    return _DIALECTS[max(known, key=len)] if known else openai.API.dialect
