"""Gives, sets and takes out parameters of requests, as the settings of their models say. Pure."""

from typing import TypeVar

import msgspec

from actors.config.parameters import deep_merged
from actors.config.schema import RequestSettings
from agents.chat import Chat, Completion, Sampling
from proxy.apis.fields import Json, decode, encode
from proxy.apis.requests import Object
from proxy.apis.sampling import COMMON, thinking

R = TypeVar("R", Chat, Completion, Chat | Completion)

_TEMPLATE = "chat_template_kwargs"
_EFFORT = "reasoning_effort"
_SPELLINGS = {
    "max_tokens": ("max_tokens", "max_completion_tokens", "n_predict"),
    _EFFORT: (_EFFORT, "reasoning", f"{_TEMPLATE}.enable_thinking", f"{_TEMPLATE}.{_EFFORT}"),
}
"""The fields of llama.cpp's requests, and of OpenAI's, that mean the same as a parameter."""

_OLLAMA = {*COMMON, "max_tokens", "stop", "num_keep"}
"""The parameters that an Ollama daemon has."""
_SAMPLING = tuple(name for name in Sampling.__struct_fields__ if name != "num_ctx")


def adjusted(fields: Json, settings: RequestSettings) -> Json:
    """Return a request's parameters, changed as the settings say. Null counts as absent."""
    fields = {name: value for name, value in fields.items() if value is not None}
    for dotted in settings.strip:
        for spelling in _SPELLINGS.get(dotted, (dotted,)):
            fields = _without(fields, spelling.split("."))
    for name, value in settings.default.items():
        if not any(_has(fields, spelling.split(".")) for spelling in _SPELLINGS.get(name, ())):
            fields = deep_merged(_written(name, value), fields)
    for name, value in settings.set.items():
        for spelling in _SPELLINGS.get(name, ()):
            fields = _without(fields, spelling.split("."))
        fields = deep_merged(fields, _written(name, value))
    return fields


def with_parameters(request: R, settings: RequestSettings | None) -> R:
    """Return a canonical request, changed as the settings of its model say."""
    if settings is None:
        return request
    sampling = {name: getattr(request.sampling, name) for name in _SAMPLING}
    given = {**request.extra, **{name: value for name, value in sampling.items() if value not in (None, [])}}
    if isinstance(request, Chat) and request.think is not None:
        given = deep_merged(given, _template_of(request.think))
    fields = adjusted(given, settings)
    changed: Json = {}
    if isinstance(request, Chat):
        changed["think"], fields = _think_of(fields)
    values = {name: fields.pop(name, None) for name in _SAMPLING}
    stop = values["stop"] or []
    values["stop"] = [stop] if isinstance(stop, str) else stop
    changed["sampling"] = msgspec.structs.replace(request.sampling, **values)
    return msgspec.structs.replace(request, extra=fields, **changed)


def set_in_body(body: Object, settings: RequestSettings) -> Object:
    """Return the fields of a body for a llama.cpp server, changed as the settings say.

    Fields of which the settings say nothing keep their exact bytes.
    """
    named = {dotted.partition(".")[0] for dotted in settings.strip} | {*settings.default, *settings.set}
    if _TEMPLATE in named:
        named.add(_EFFORT)
    related = {one.partition(".")[0] for name in named for one in _SPELLINGS.get(name, (name,))}
    given = {name: decode(body[name], object) for name in related if name in body}
    kept = {name: value for name, value in body.items() if name not in related}
    changed = adjusted(_with_effort_inside(given), settings)
    return kept | {name: msgspec.Raw(encode(value)) for name, value in changed.items()}


def set_in_ollama_body(body: Object, settings: RequestSettings) -> Object:
    """Return the fields of a body for an Ollama daemon, changed as the settings say.

    Parameters that a daemon does not have are left out. Fields but `options` and `think` keep their bytes.
    """
    options: Json = msgspec.json.decode(body.get("options") or b"null") or {}
    given = {("max_tokens" if name == "num_predict" else name): value for name, value in options.items()}
    think = msgspec.json.decode(body.get("think") or b"null")
    if isinstance(think, bool | str):
        given = deep_merged(given, _template_of(think))
    think, changed = _think_of(adjusted(given, settings))
    known = {name: value for name, value in changed.items() if name in given or name in _OLLAMA}
    if "max_tokens" in known:
        known["num_predict"] = known.pop("max_tokens")
    if isinstance(known.get("stop"), str):
        known["stop"] = [known["stop"]]
    fields = {name: value for name, value in body.items() if name not in ("options", "think")}
    fields["options"] = msgspec.Raw(encode(known))
    return fields if think is None else {**fields, "think": msgspec.Raw(encode(think))}


def answer_limit(asked: float | None, settings: RequestSettings | None) -> float | None:
    """Return the most tokens of an answer for which a client has `asked`; None: no limit."""
    if settings is None:
        return asked
    fields: Json = adjusted({"max_tokens": asked}, settings)
    limit: float | None = fields.get("max_tokens")
    return limit


def _written(name: str, value: object) -> Json:
    """Return a parameter as llama.cpp's requests have it."""
    if name == _EFFORT and isinstance(value, str):
        return _template_of(thinking(value))
    return {name: value}


def _template_of(think: bool | str | None) -> Json:
    arguments: Json = {"enable_thinking": bool(think)}
    if isinstance(think, str):
        arguments[_EFFORT] = think
    return {_TEMPLATE: arguments}


def _with_effort_inside(fields: Json) -> Json:
    """Return a body's fields with the effort among the template's arguments, as for a translated request."""
    reasoning = fields.get("reasoning")
    effort = fields.get(_EFFORT) or (reasoning.get("effort") if isinstance(reasoning, dict) else None)
    if not effort or not isinstance(effort, str):
        return fields
    others = {name: value for name, value in fields.items() if name not in (_EFFORT, "reasoning")}
    return deep_merged(others, _template_of(thinking(effort)))


def _think_of(fields: Json) -> tuple[bool | str | None, Json]:
    """Return `Chat.think`, and the other parameters."""
    arguments = fields.get(_TEMPLATE)
    if not isinstance(arguments, dict) or not isinstance(is_on := arguments.get("enable_thinking"), bool):
        return None, fields
    level = arguments.get(_EFFORT)
    rest = {name: value for name, value in arguments.items() if name not in ("enable_thinking", _EFFORT)}
    others = {name: value for name, value in fields.items() if name != _TEMPLATE}
    return level if is_on and isinstance(level, str) else is_on, others | ({_TEMPLATE: rest} if rest else {})


def _has(fields: Json, path: list[str]) -> bool:
    value = fields.get(path[0])
    if len(path) == 1:
        return value is not None
    return isinstance(value, dict) and _has(value, path[1:])


def _without(fields: Json, path: list[str]) -> Json:
    """Return the fields without one; a mapping that is empty then is taken out too."""
    name, *inner = path
    if not inner:
        return {key: value for key, value in fields.items() if key != name}
    if not isinstance(under := fields.get(name), dict):
        return fields
    rest = _without(under, inner)
    return {**fields, name: rest} if rest else _without(fields, [name])
