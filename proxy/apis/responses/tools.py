"""Offers the tools that a client runs itself as functions that any model can call.

Tools that OpenAI's servers would run (web search, MCP, ...) cannot be run here. They are left out, and a
request whose `tool_choice` forces one is refused.
"""

from typing import Any, Literal

import msgspec

from agents.chat import NamedTool, Tool
from proxy.apis.fields import FieldError, Json

Choice = Literal["auto", "none", "required"] | NamedTool | None


class ClientTool(msgspec.Struct, frozen=True):
    """A tool as its client knows it. `type` is function, custom, or one of `KNOWN`."""

    type: str
    name: str
    namespace: str = ""


class Offer(msgspec.Struct):
    """The tools offered to a model. `clients` has the client's tool for each name that the model sees."""

    tools: list[Tool] = []
    clients: dict[str, ClientTool] = {}
    left_out: list[str] = []
    """The types of tools that are left out because nobody can run them, or because a name is taken."""
    _names: dict[ClientTool | tuple[str, str], str] = {}
    """The names that the model sees, by tool, and by type and name of the first such tool."""

    def name_of(self, tool: ClientTool) -> str:
        """Return the name that the model sees; for a tool that is not offered any more, its own name."""
        return self._names.get(tool, tool.name)

    def find(self, kind: str, name: str) -> str | None:
        """Return the name that the model sees of the first tool with this type and name, or None."""
        return self._names.get((kind, name))

    def add(self, tool: Tool, client: ClientTool) -> None:
        """Offer a tool. If its name is taken, its namespace is put before the name, or it is left out."""
        name = tool.name
        if name in self.clients and client.namespace:
            name = f"{client.namespace}__{name}"
        if name in self.clients:
            if self.clients[name] != client:
                self.left_out.append(f"{client.type} {name}")
            return
        self.clients[name], self._names[client] = client, name
        self._names.setdefault((client.type, client.name), name)
        self.tools.append(msgspec.structs.replace(tool, name=name))


_TEXT = {"type": "string"}
_TEXTS = {"type": "array", "items": _TEXT}


def _schema(required: list[str], **properties: Any) -> Json:
    return {"type": "object", "properties": properties, "required": required}


KNOWN: dict[str, tuple[str, Json]] = {
    "local_shell": (
        "Runs a command on the user's computer, and returns its output.",
        _schema(["command"], command=_TEXTS, working_directory=_TEXT, timeout_ms={"type": "integer"}),
    ),
    "shell": (
        "Runs shell commands on the user's computer, and returns their output.",
        _schema(["commands"], commands=_TEXTS, timeout_ms={"type": "integer"}),
    ),
    "apply_patch": (
        "Creates, updates or deletes a file. The diff is in the V4A format: lines begin with '+', '-' or a "
        "space, and '@@' begins a section; a new file has '+' lines only.",
        _schema(
            ["type", "path"],
            type={"type": "string", "enum": ["create_file", "update_file", "delete_file"]},
            path=_TEXT,
            diff=_TEXT,
        ),
    ),
    "tool_search": ("Finds tools for a task.", _schema(["query"], query=_TEXT)),
}
"""Description and schema that a model is shown of tools that are defined by their type alone."""


def offer(tools: list[Json]) -> Offer:
    """Return the offer of a request's tools. Raises `FieldError`."""
    made = Offer([], {}, [], {})
    for index, tool in enumerate(tools):
        _add(made, tool, f"tools[{index}]", "")
    return made


def _add(made: Offer, tool: Json, field: str, namespace: str) -> None:
    kind = tool.get("type", "function")
    if not isinstance(kind, str):
        raise FieldError(f"{field}.type", "must be a text")
    match kind:
        case "function" | "custom":
            inner = tool.get(kind)  # the form of a chat's tools
            _add_named(
                made, inner if isinstance(inner, dict) else tool, field, ClientTool(kind, "", namespace)
            )
        case "namespace":
            for index, one in enumerate(_list(tool.get("tools"), f"{field}.tools")):
                _add(made, one, f"{field}.tools[{index}]", _name(tool, field))
        case "local_shell" | "shell" | "apply_patch" | "tool_search" if _runs_at_client(tool):
            description, parameters = KNOWN[kind]
            if isinstance(tool.get("parameters"), dict):
                parameters = tool["parameters"]
            description = tool.get("description") or description
            made.add(Tool(kind, str(description), parameters), ClientTool(kind, kind))
        case _:
            made.left_out.append(kind)


def _runs_at_client(tool: Json) -> bool:
    if tool["type"] == "tool_search":
        return tool.get("execution") == "client"  # if the server searches, all tools are offered anyway
    environment = tool.get("environment")
    return not isinstance(environment, dict) or environment.get("type", "local") == "local"


def _add_named(made: Offer, tool: Json, field: str, client: ClientTool) -> None:
    name = _name(tool, field)
    description, parameters, strict = (
        tool.get("description") or "",
        tool.get("parameters"),
        tool.get("strict"),
    )
    if not isinstance(description, str):
        raise FieldError(f"{field}.description", "must be a text")
    if client.type == "custom":
        form = tool.get("format")
        if isinstance(form, dict) and isinstance(form.get("definition"), str):
            description += (
                f"\n\nThe input follows this {form.get('syntax', '')} grammar:\n{form['definition']}"
            )
        parameters, strict = _schema(["input"], input=_TEXT), None
    if not isinstance(parameters, dict | None):
        raise FieldError(f"{field}.parameters", "must be a JSON schema")
    strict = strict if isinstance(strict, bool) else None
    made.add(Tool(name, description, parameters, strict), ClientTool(client.type, name, client.namespace))


def _name(tool: Json, field: str) -> str:
    name = tool.get("name")
    if not isinstance(name, str) or not name:
        raise FieldError(f"{field}.name", "is missing")
    return name


def _list(value: Any, field: str) -> list[Json]:
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise FieldError(field, "must be a list of objects")
    return value


def choose(made: Offer, choice: Any) -> Choice:
    """Return the canonical tool choice, and remove tools that it does not allow from the offer.

    Raises `FieldError`.
    """
    if choice == "required" and not made.tools:
        raise FieldError("tool_choice", _nobody_runs(made.left_out))
    if choice is None or choice in ("auto", "none", "required"):
        return choice  # type: ignore[no-any-return]
    if not isinstance(choice, dict):
        raise FieldError("tool_choice", "must be auto, none, required, or name a tool")
    if choice.get("type") != "allowed_tools":
        return NamedTool(_forced(made, choice, "tool_choice"))
    mode = choice.get("mode", "auto")
    if mode not in ("auto", "required"):
        raise FieldError("tool_choice.mode", "must be auto or required")
    allowed = set()
    for index, one in enumerate(_list(choice.get("tools"), "tool_choice.tools")):
        if mode == "required" or _kind(one) not in made.left_out:
            allowed.add(_forced(made, one, f"tool_choice.tools[{index}]"))
    made.tools = [tool for tool in made.tools if tool.name in allowed]
    return mode if made.tools else "none"


def _kind(choice: Json) -> str:
    return str(choice.get("type", "function"))


def _forced(made: Offer, choice: Json, field: str) -> str:
    """Return the name, as the model sees it, of the tool that a choice names. Raises `FieldError`."""
    kind, inner = _kind(choice), choice.get("function")
    name = choice.get("name") or (inner.get("name") if isinstance(inner, dict) else None)
    name = name if isinstance(name, str) else None
    if (offered := made.find(kind, kind if name is None and kind in KNOWN else name or "")) is not None:
        return offered
    if kind in ("function", "custom", *KNOWN):
        raise FieldError(
            field, f"there is no {kind} {name!r} among the tools" if name else "is not among the tools"
        )
    raise FieldError(field, _nobody_runs([kind]))


def _nobody_runs(kinds: list[str]) -> str:
    if not kinds:
        return "there are no tools to call"
    return f"nobody here can run {', '.join(kinds)}; run tools in the client, as functions"
