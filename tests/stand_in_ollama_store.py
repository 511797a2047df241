"""What the stand-in for Ollama has: models, made-up answers, Go's durations and its complaints."""

import hashlib
import itertools
import json
import re
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

MIB = 1 << 20
FOREVER = (1 << 63) / 1e9
"""Seconds of Go's longest duration: what a negative keep_alive is."""
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_GO = {str: "string", dict: "object", list: "array", bool: "bool", int: "number", float: "number"}
_FIELDS: dict[str, tuple[type, ...]] = {
    "model": (str,),
    "name": (str,),
    "messages": (list,),
    "tools": (list,),
    "prompt": (str,),
    "options": (dict,),
    "stream": (bool,),
    "source": (str,),
    "destination": (str,),
}


KINDS: dict[str, Any] = {
    "string": "text",
    "integer": 1,
    "number": 1.5,
    "boolean": True,
    "null": None,
    "object": {},
    "array": [],
}
"""Something of each of JSON schema's types."""

_BLOBS = itertools.count(1)


class BadRequestError(Exception):
    """Answered with 400."""


@dataclass
class Model:
    """A model of the stand-in. `takes`: bytes when loaded, `on_gpus` of which are on GPUs."""

    size: int = 100 * MIB
    takes: int = 160 * MIB
    on_gpus: int = 160 * MIB
    capabilities: list[str] = field(default_factory=lambda: ["completion", "tools"])
    context: int = 32768
    info: dict[str, Any] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)
    system: str = ""
    template: str = "{{ .Prompt }}"
    parent: str = ""
    modified_at: float = 1.78e9
    remote_host: str = ""
    weights: str = field(default_factory=lambda: f"{next(_BLOBS):064x}")
    """Models that have the same ones share what is loaded."""

    def digest(self, name: str) -> str:
        """As long as a real one."""
        return hashlib.sha256(f"{name} {self.size} {self.system} {self.parameters}".encode()).hexdigest()

    @property
    def details(self) -> dict[str, Any]:
        """As in /api/tags, /api/ps and /api/show."""
        words = {"parameter_size": "100M", "quantization_level": "Q8_0"}
        return {
            "parent_model": self.parent,
            "format": "gguf",
            "family": "llama",
            "families": ["llama"],
            **words,
        }

    @property
    def shown(self) -> dict[str, Any]:
        """As in /api/show."""
        words = {
            "modelfile": f"# Modelfile by 'ollama show'\nFROM /models/blobs/sha256-{self.weights}\n",
            "parameters": "\n".join(f"{key:<30} {value}" for key, value in self.parameters.items()),
            "template": self.template,
            "system": self.system,
        }
        return {
            **{key: value for key, value in words.items() if value},
            "details": self.details,
            "model_info": self.model_info,
            "capabilities": self.capabilities,
            "modified_at": go_time(self.modified_at),
        }

    @property
    def model_info(self) -> dict[str, Any]:
        """The header's key values; lists are null unless `verbose`."""
        return {
            "general.architecture": "llama",
            "general.parameter_count": 100_000_000,
            "llama.attention.head_count": 16,
            "llama.attention.head_count_kv": 4,
            "llama.attention.key_length": 64,
            "llama.attention.value_length": 64,
            "llama.block_count": 9,
            "llama.context_length": self.context,
            "llama.embedding_length": 1024,
            "llama.vocab_size": 32000,
            "tokenizer.ggml.tokens": None,
            **self.info,
        }


def go_time(seconds: float) -> str:
    """A moment of Unix time as Go writes it."""
    whole = datetime.fromtimestamp(0, UTC) + timedelta(seconds=int(seconds))
    return f"{whole:%Y-%m-%dT%H:%M:%S}.{int(seconds % 1 * 1e9):09}Z"


def full_name(name: str) -> str:
    """With its tag."""
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def duration(value: Any) -> float:
    """Seconds of a keep_alive. Raises `BadRequestError` in Go's words."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise BadRequestError(f"Unsupported type: '{_GO.get(type(value), 'object')}'")
    if not isinstance(value, str):
        return FOREVER if value < 0 else float(value)
    sign, digits = (-1, value[1:]) if value.startswith("-") else (1, value.removeprefix("+"))
    if digits == "0":
        return 0.0
    parts = _PART.findall(digits)
    if not parts or "".join(number + unit for number, unit in parts) != digits:
        number = re.match(r"[\d.]+", digits)
        unit = digits[number.end() :] if number else ""
        complaint = f'unknown unit "{unit}" in' if unit else "missing unit in" if number else "invalid"
        raise BadRequestError(f'time: {complaint} duration "{value}"')
    seconds = sign * sum(float(number) * _UNITS[unit] for number, unit in parts)
    return FOREVER if seconds < 0 else seconds


def read_body(data: bytes, struct: str) -> dict[str, Any]:
    """The fields of a request. Raises `BadRequestError` in Go's words."""
    if not data.strip():
        raise BadRequestError("missing request body")
    try:
        body = json.loads(data)
    except ValueError:
        raise BadRequestError("unexpected EOF") from None
    if not isinstance(body, dict):
        raise BadRequestError(f"json: cannot unmarshal {_GO[type(body)]} into Go value of type api.{struct}")
    for key, types in _FIELDS.items():
        value = body.get(key)
        if value is not None and type(value) not in types:
            go = {str: "string", list: "[]any", dict: "map[string]interface {}", bool: "bool"}[types[0]]
            raise BadRequestError(
                f"json: cannot unmarshal {_GO[type(value)]} into Go struct field {struct}.{key} of type {go}"
            )
    return body


def example(schema: Any) -> Any:
    """Something that a JSON schema allows."""
    if not isinstance(schema, dict):
        return {"answer": "json"}
    if "anyOf" in schema:
        return example(schema["anyOf"][0])
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type", "object")
    if kind == "object":
        return {key: example(part) for key, part in schema.get("properties", {}).items()}
    if kind == "array":
        return [example(schema.get("items", {"type": "string"}))]
    return KINDS[kind]


_OPTIONS: dict[str, tuple[str, tuple[type, ...]]] = {
    "stop": ("array", (list,)),
    "num_predict": ("integer", (int, float)),
    "temperature": ("float32", (int, float)),
}


def runner_error(body: dict[str, Any], model: Model, context: int) -> tuple[int, str] | None:
    """Status and text of what the model's runner, a llama-server, refuses: its own error, as a text."""
    words = sum(len(str(message.get("content") or "").split()) for message in body.get("messages") or [])
    words += len((body.get("prompt") or "").split())
    schemas = [body.get("format"), *(tool["function"].get("parameters") for tool in body.get("tools") or [])]
    kinds = [schema.get("type", "object") for schema in schemas if isinstance(schema, dict)]
    error: dict[str, Any] | None = None
    options = body.get("options") or {}
    for name, (kind, types) in _OPTIONS.items():
        if not isinstance(options.get(name), (*types, type(None))):
            return 500, f'option "{name}" must be of type {kind}'
    form = body.get("format")
    if isinstance(form, str) and form not in ("", "json"):
        return 500, f'invalid format: "{form}"; expected "json" or a valid JSON Schema object'
    if any(kind not in KINDS for kind in kinds):
        message = (
            "Unable to generate parser for this template. Automatic parser generation failed: JSON schema "
        )
        error = {
            "code": 400,
            "message": f"{message}error at #: unrecognized type",
            "type": "invalid_request_error",
        }
    elif any(message.get("images") for message in body.get("messages") or []) or body.get("images"):
        if "vision" not in model.capabilities:
            hint = "hint: if this is unexpected, you may need to provide the mmproj"
            message = f"image input is not supported - {hint}"
            error = {"code": 500, "message": message, "type": "server_error"}
    elif words > context and body.get("truncate") is False:
        message = f"request ({words} tokens) exceeds the available context size ({context} tokens)"
        error = {"code": 400, "message": message, "type": "exceed_context_size_error"}
        error |= {"n_prompt_tokens": words, "n_ctx": context}
    return (error["code"], json.dumps({"error": error})) if error is not None else None


def text_of(body: dict[str, Any], chat: bool) -> str | None:
    """What was said last; None in a request that only loads."""
    if not chat:
        return body.get("prompt") or None
    messages = body.get("messages") or []
    return str(messages[-1].get("content") or "") if messages else None


def tokens_in(body: dict[str, Any]) -> int:
    """How much a request has for the model to read."""
    return len(json.dumps([body.get(key) for key in ("system", "prompt", "messages", "tools")])) // 4


def answer(name: str, text: str, body: dict[str, Any]) -> tuple[list[str], list[dict[str, Any]]]:
    """The words of an answer to a text, and the calls of tools in it."""
    if body.get("tools") and "weather" in text.lower():
        cities = [city for city in ("Paris", "Rome", "Oslo") if city in text] or ["Paris"]
        names = [tool["function"]["name"] for tool in body["tools"]]
        tool = next((name for name in names if "weather" in name), names[0])
        return [], [
            {
                "id": f"call_{index:08}",
                "function": {"index": index, "name": tool, "arguments": {"city": city}},
            }
            for index, city in enumerate(cities)
        ]
    said = json.dumps(example(body["format"])) if body.get("format") else f"I am {name} and you said: {text}"
    for end in _stops(body):
        said = said.partition(end)[0]
    return re.findall(r"\s*\S+|\s+$", said), []


def _stops(body: dict[str, Any]) -> list[str]:
    given = (body.get("options") or {}).get("stop") or []
    return [given] if isinstance(given, str) else given


def vector(text: str, length: int = 8) -> list[float]:
    """An embedding of length one that differs from text to text."""
    numbers = [byte - 127.5 for byte in hashlib.sha256(text.encode()).digest()[:length]]
    norm = sum(number * number for number in numbers) ** 0.5
    return [number / norm for number in numbers]


def nanoseconds(since: float) -> int:
    """Since a moment of the performance counter."""
    return int((time.perf_counter() - since) * 1e9)
