"""Finds agents, and loads their classes.

A folder with an `agent.py` is an agent, named like the folder. Agents are searched in this package, in the
folders of `agent_folders` (each an agent, or a folder of agents), and among the entry points of installed
packages. Only enabled agents are imported.
"""

import difflib
import importlib
import importlib.metadata
import inspect
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from actors.config.fields import Fields
from actors.config.schema import Config
from actors.errors import ConfigError, Fault
from agents.api import Agent, AgentConfig
from agents.host.commands import NAME
from agents.host.settings import OLDER_NAMES, read_agents

ENTRY_POINTS = "llama_smart_proxy.agents"
"""The group of entry points for agents' classes."""

REMEDY = "Mend it, take it out of `agents`, or set skip_broken_agents to start without it"
FILE = "agent.py"
HERE = Path(__file__).parents[1]


class BrokenAgentError(ConfigError):
    """An agent cannot be loaded or started. The message names its file and the reason."""


class AgentSource(msgspec.Struct, frozen=True):
    """An agent that was found. `load` imports it and returns its class; raises `BrokenAgentError`."""

    name: str
    file: str
    load: Callable[[], type[Agent]]


class Loaded(msgspec.Struct, frozen=True):
    """An enabled agent, ready to be started."""

    name: str
    file: str
    kind: type[Agent]
    config: AgentConfig


def sources(folders: list[str]) -> dict[str, AgentSource]:
    """Find all agents, by name. Raises `ConfigError` for a folder without agents, or a name used twice."""
    found: dict[str, AgentSource] = {}
    for source in (*_in_folder(HERE), *_in_folders(folders), *_in_packages()):
        if source.name in OLDER_NAMES:
            raise ConfigError(
                f"{source.file}: {source.name!r} is another name of {OLDER_NAMES[source.name]!r}"
            )
        if source.name in found:
            other = found[source.name].file
            raise ConfigError(f"two agents are called {source.name!r}: {other} and {source.file}")
        found[source.name] = source
    return found


def options_of(kind: type[Agent]) -> dict[str, Any]:
    """Return an agent's options as properties of a JSON schema. Raises `TypeError` for unsupported types."""
    ((reference,), schemas) = msgspec.json.schema_components([kind.Config])
    properties: dict[str, Any] = schemas[reference["$ref"].rpartition("/")[2]]["properties"]
    return properties


def load_agents(
    config: Config, folder: Path | None = None, known: Iterable[Loaded] = ()
) -> tuple[list[Loaded], list[BrokenAgentError]]:
    """Load the enabled agents; return them, and the broken ones that are left out.

    The classes of `known` agents are taken instead of those in the same files. Relative paths in options
    start in `folder`. Raises `ConfigError` with all faults; broken agents are faults, unless
    `skip_broken_agents` is set.
    """
    enabled, faults = read_agents(config)
    kinds = {(agent.name, agent.file): agent.kind for agent in known}
    loaded: list[Loaded] = []
    broken: list[BrokenAgentError] = []
    there_are: dict[str, AgentSource] = {}
    if enabled:
        try:
            there_are = sources(config.agent_folders)
        except ConfigError as error:
            faults.append(Fault(("agent_folders",), str(error)))
            there_are = sources([])
    for entry in enabled:
        source = there_are.get(entry.name)
        if source is None:
            near = difflib.get_close_matches(entry.name, there_are, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(there_are))}"
            message = f"there is no such agent; {hint}"
            faults.append(Fault(("agents", entry.name), message))
            continue
        try:
            kind = kinds.get((source.name, source.file)) or source.load()
        except BrokenAgentError as error:
            broken.append(error)
            if not config.skip_broken_agents:
                faults.append(Fault(("agents", entry.name), f"{error}\n{REMEDY}"))
            continue
        fields = Fields(folder)
        options = fields.take(entry.options, kind.Config, ("agents", entry.name))
        faults += fields.faults
        loaded.append(Loaded(source.name, source.file, kind, options))
    if faults:
        raise ConfigError.of(faults)
    return loaded, broken


def _in_folder(folder: Path) -> Iterator[AgentSource]:
    for path in sorted(folder.glob(f"*/{FILE}")):
        yield _source(path.parent)


def _in_folders(folders: list[str]) -> Iterator[AgentSource]:
    for folder in map(Path, folders):
        if (folder / FILE).is_file():
            yield _source(folder)
            continue
        inside = list(_in_folder(folder))
        if not inside:
            raise ConfigError(f"{folder} has no {FILE}, and no folder in it has one")
        yield from inside


def _source(folder: Path) -> AgentSource:
    def load() -> type[Agent]:
        package = f"agents.{folder.name}" if folder.parent == HERE else _package(folder)
        module = _guarded(
            folder.name, str(folder / FILE), lambda: importlib.import_module(f"{package}.agent")
        )
        kinds = [
            value
            for value in vars(module).values()
            if inspect.isclass(value) and issubclass(value, Agent) and value.__module__ == module.__name__
        ]
        if len(kinds) != 1:
            reason = f"expected one subclass of agents.api.Agent in it, found {len(kinds)}"
            raise _broken(folder.name, str(folder / FILE), reason)
        return _checked(folder.name, str(folder / FILE), kinds[0])

    return AgentSource(folder.name, str(folder / FILE), load)


def _package(folder: Path) -> str:
    """Make a package for a folder outside of the path, so that its files can import each other."""
    name = f"agents_of_folders.{folder.name}"
    for parent, paths in (("agents_of_folders", []), (name, [str(folder)])):
        module = ModuleType(parent)
        module.__path__ = paths
        sys.modules[parent] = module
    sys.modules.pop(f"{name}.agent", None)
    return name


def _in_packages() -> Iterator[AgentSource]:
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        where = f"{point.value} (of the package {point.dist.name if point.dist else '?'})"

        def load(point: importlib.metadata.EntryPoint = point, where: str = where) -> type[Agent]:
            return _checked(point.name, where, _guarded(point.name, where, point.load))

        yield AgentSource(point.name, where, load)


def _guarded(name: str, file: str, load: Callable[[], Any]) -> Any:
    """Raise every exception of an import as one error that names the place."""
    try:
        return load()
    except SyntaxError as error:
        reason = f"line {error.lineno}: {error.msg}"
        raise _broken(name, error.filename or file, reason) from error
    except (Exception, SystemExit) as error:  # the boundary to somebody else's code
        frames = [
            frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename
        ]
        line = f"line {frames[-1].lineno}: " if frames and frames[-1].filename == file else ""
        raise _broken(name, file, f"{line}{type(error).__name__}: {error}") from error


def _checked(name: str, file: str, kind: Any) -> type[Agent]:
    """Check a class for faults that would otherwise fail with the first request."""
    faults = []
    if not (inspect.isclass(kind) and issubclass(kind, Agent)):
        raise _broken(name, file, f"expected a subclass of agents.api.Agent, found {kind!r}")
    if not NAME.fullmatch(name):
        faults.append(f"{name!r} cannot be an agent's name: expected small letters, digits, - and _")
    if not (inspect.isclass(kind.Config) and issubclass(kind.Config, AgentConfig)):
        faults.append("Config must be a subclass of agents.api.AgentConfig")
    else:
        try:
            options_of(kind)
        except (TypeError, NameError) as error:
            faults.append(f"Config has a type that no configuration can have: {error}")
    faults += [
        f"{method} must be `async def`"
        for method in ("start", "run", "close", "before", "after")
        if not inspect.iscoroutinefunction(getattr(kind, method))
    ]
    if inspect.iscoroutinefunction(kind.stream):
        faults.append("stream must be a plain `def`")
    if faults:
        raise _broken(name, file, "; ".join(faults))
    return kind


def _broken(name: str, file: str, reason: str) -> BrokenAgentError:
    return BrokenAgentError(f"agent {name!r} cannot be used: {file}: {reason}")
