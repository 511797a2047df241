"""Reads config.yaml into a `Config`, and reports all its faults by key and line."""

import os
import re
import shlex
from collections.abc import Iterable
from collections.abc import Mapping as Environment
from pathlib import Path as FilePath
from typing import Any

import msgspec

from actors.config.checks import check
from actors.config.document import (
    ConfigDocument,
    Line,
    Mapping,
    Path,
    file_of,
    line_of,
    merge,
    place,
    read_document,
)
from actors.config.environment import Substitution
from actors.config.fields import Fields, absolute, plain
from actors.config.masking import mask_text, masked, secrets_of
from actors.config.schema import BUILTIN, Config, Model, ServerPool
from actors.errors import ConfigError, Fault

MOST_BYTES = 1 << 20
MOST_LINES = 100
MOST_CHARACTERS = 1000


class ConfigFile(msgspec.Struct, frozen=True):
    """A configuration file that was read. `config` has defaults in place of faulty values."""

    file: FilePath
    config: Config
    faults: list[Fault]
    secrets: set[str]
    data: Any
    """The file's contents, with line numbers."""
    early: list[tuple[int, Fault]] = []
    """Faults found while parsing, with their lines."""
    files: list[FilePath] = []
    """The files that were read: `file`, and those of its folder (`config_files`)."""
    empty: list[FilePath] = []
    """Those of them in which there is nothing at all, as while a program writes them anew."""

    @property
    def folder(self) -> FilePath:
        """The folder from which relative paths are taken."""
        return self.file.absolute().parent

    def report(self, more: Iterable[Fault] = ()) -> list[str]:
        """Return a line of text for each fault, `more` included, in the order of the file."""
        return self._describe([*self.faults, *more], self.early)

    def describe(self, faults: Iterable[Fault]) -> list[str]:
        """Return a line of text for each of these faults."""
        return self._describe(faults, [])

    def _describe(self, faults: Iterable[Fault], early: list[tuple[int, Fault]]) -> list[str]:
        placed = early + [(line_of(self.data, fault.path) or 0, fault) for fault in faults]
        order = {str(file): nth for nth, file in enumerate(self.files)}
        placed.sort(key=lambda entry: (order.get(file_of(entry[0]) or "", 0), entry[0]))
        lines = list(dict.fromkeys(self._in_words(line, fault) for line, fault in placed[:MOST_LINES]))
        more = len(placed) - MOST_LINES
        return [*lines, f"{self.file}: and {more} more"] if more > 0 else lines

    def _in_words(self, line: int, fault: Fault) -> str:
        other = line_of(self.data, fault.also) if fault.also is not None else None
        file = file_of(line) or self.file
        if other is not None:
            elsewhere = file_of(other) or self.file
            where = f"line {other}" if str(elsewhere) == str(file) else f"{elsewhere}:{other}"
            fault = Fault(fault.path, fault.text(f" ({where})"))
        message = str(fault)
        start = f"{file}:{line}: " if line else f"{file}: "
        message = mask_text(" ".join(message.split("\n")), self.secrets)
        return start + (message if len(message) <= MOST_CHARACTERS else f"{message[:MOST_CHARACTERS]}...")

    def shown(self, config: Config) -> dict[str, Any]:
        """Return the settings in effect as plain data without secrets, which could be read again."""
        whole = msgspec.structs.replace(config, agents=plain(config.agents))
        found: dict[str, Any] = _escaped(masked(whole, self.secrets))
        return found


def config_files(file: FilePath) -> list[FilePath]:
    """Return a configuration file, and those that are added to it: `*.yaml` of the folder of its name.

    That of `config.yaml` is `config.d`. Raises `ConfigError` if the folder cannot be read.
    """
    folder = file.with_suffix(".d")
    try:
        names = sorted(entry.name for entry in os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        names = []
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder}: cannot be read: {error}") from None
    return [file, *(folder / name for name in names if name.endswith(".yaml") and not name.startswith("."))]


def read_config_file(file: FilePath, *, environment: Environment[str, str] | None = None) -> ConfigFile:
    """Read a configuration file, and those that are added to it (`config_files`).

    Raises `ConfigError`, of one line, if one of them cannot be read at all.
    """
    text = _read(file)
    empty = [] if text else [file]
    document = _document(file, text)
    data, early = document.data, list(document.faults)
    files = config_files(file)
    for one in files[1:]:
        text = _read(one)
        if not text:
            empty.append(one)
        added = _document(one, text)
        early += [(Line(line, str(one)), fault) for line, fault in added.faults]
        if added.data is None:
            continue
        if not isinstance(added.data, Mapping):
            raise ConfigError(f"{one}: expected a mapping of settings")
        place(added.data, str(one))
        main = Mapping() if data is None else data
        data = merge(main, added.data, early, main=str(file)) if isinstance(main, Mapping) else main
    found = _settings(data, file, file.absolute().parent, environment)
    return msgspec.structs.replace(found, early=early, files=files, empty=empty)


def _document(file: FilePath, text: str) -> ConfigDocument:
    try:
        return read_document(text)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}", error.faults) from None


def load_config(file: FilePath) -> Config:
    """Read a configuration file. Raises `ConfigError`, with a line for each fault."""
    settings = read_config_file(file)
    if lines := settings.report():
        raise ConfigError("\n".join(lines), [fault for _, fault in settings.early] + settings.faults)
    return settings.config


def parse_config(
    data: object, *, folder: FilePath, environment: Environment[str, str] | None = None
) -> Config:
    """Make a `Config` of plain data. Raises `ConfigError`. Paths are taken relative to `folder`."""
    settings = _settings(data, FilePath(), folder, environment)
    if settings.faults:
        raise ConfigError.of(settings.faults)
    return settings.config


def _read(file: FilePath) -> str:
    try:
        with file.open("rb") as opened:
            content = opened.read(MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror or error}") from None
    except ValueError as error:  # a NUL in the file's name
        raise ConfigError(f"{file}: cannot be read: {error}") from None
    if len(content) > MOST_BYTES:
        raise ConfigError(f"{file}: has more than {MOST_BYTES >> 20} MiB, which is no configuration")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{file}: line {line}: is not UTF-8 (byte 0x{content[error.start]:02x})") from None


def _settings(
    data: object, file: FilePath, folder: FilePath, environment: Environment[str, str] | None
) -> ConfigFile:
    substitution = Substitution(os.environ if environment is None else environment)
    fields = Fields(folder, raw=True)
    replaced = substitution.replaced(data)
    taken = fields.take(replaced, Config)
    unreplaced = {fault.path for fault in substitution.faults}
    faults = substitution.faults + [fault for fault in fields.faults if fault.path not in unreplaced]
    config = Config() if taken is None else taken
    faults += [fault for fault in check(config) if not any(_covers(earlier, fault) for earlier in faults)]
    config = _with_paths(config, folder, faults)
    secrets = substitution.secrets | secrets_of(config)
    return ConfigFile(file, config, faults, secrets, replaced)


def _covers(earlier: Fault, fault: Fault) -> bool:
    """Whether a fault may only be a consequence of an earlier one."""
    above, below = earlier.path, fault.path
    if below[: len(above)] == above:
        return True
    inside = above[: len(below)] == below
    return inside and (not fault.about or above[len(below)] in fault.about)


def _with_paths(config: Config, folder: FilePath, faults: list[Fault]) -> Config:
    """Make those paths absolute whose meaning depends on other fields."""

    def resolve(path: str, place: Path) -> str:
        try:
            return absolute(path, folder)
        except ValueError as error:
            faults.append(Fault(place, str(error)))
            return path

    def command(given: Any, place: Path, *, inside: bool) -> Any:
        """A program with a slash is a file; a bare name is looked up on the PATH."""
        if given is None or inside:
            return given
        try:
            words = shlex.split(given) if isinstance(given, str) else given
        except ValueError as error:
            faults.append(Fault(place, f"cannot be split into words: {error}".lower()))
            return given
        if not words or not words[0]:
            faults.append(Fault(place, "expected a program, got nothing"))
            return given
        if "/" not in words[0] and not words[0].startswith("~"):
            return given
        program = resolve(words[0], place)
        return given if program == words[0] else [program, *words[1:]]

    def model(name: str, given: Model, pool: ServerPool) -> Model:
        place = ("llama_cpp", "models", name)
        inside = (given.runtime or pool.runtime) == "docker"
        changes = {"command": command(given.command, (*place, "command"), inside=inside)}
        if given.path is not None and not given.path.startswith(BUILTIN):
            changes["path"] = resolve(given.path, (*place, "path"))
        if given.repo is None and given.mmproj is not None:
            changes["mmproj"] = resolve(given.mmproj, (*place, "mmproj"))
        return msgspec.structs.replace(given, **changes)

    pool = config.server_pool
    own = command(pool.command, ("server_pool", "command"), inside=pool.runtime == "docker")
    models = {name: model(name, given, pool) for name, given in config.llama_cpp.models.items()}
    return msgspec.structs.replace(
        config,
        server_pool=msgspec.structs.replace(pool, command=own),
        llama_cpp=msgspec.structs.replace(config.llama_cpp, models=models),
    )


def _escaped(data: Any) -> Any:
    """Escape `${` so that the text stays text when it is read again."""
    if isinstance(data, dict):
        return {key: _escaped(item) for key, item in data.items()}
    if isinstance(data, list):
        return [_escaped(item) for item in data]
    return re.sub(r"\$\{", "$${", data) if isinstance(data, str) else data
