"""The command, the flags, the file and the port of a model's server."""

import socket
import sys
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from actors.config.schema import Config, Model, PromptSettings, ServerPool
from actors.errors import ConfigError
from actors.gpu.calibration import Calibration
from actors.hub.cache import ModelFiles
from actors.memory.flags import LAYER_FLAGS
from actors.memory.prediction.settings import LoadSettings
from actors.messages import ServerAddress
from actors.placement.fit import Placement, Share
from actors.placement.options import Option
from actors.servers import StartError
from actors.servers.llama.appraisal import Predictor
from actors.servers.llama.command import find_command, given_key, server_flags
from actors.servers.ports import PortBook

EMBEDDED = [sys.executable, "-m", "actors.servers.llama.embedded"]


@pytest.fixture
def binary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A `llama-server` on the PATH."""
    path = tmp_path / "llama-server"
    path.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    return str(path)


@pytest.mark.parametrize(
    ("pool", "model", "expected"),
    [
        ({}, {}, ["BINARY"]),
        ({"runtime": "llama-server"}, {}, ["BINARY"]),
        ({"runtime": "embedded"}, {}, EMBEDDED),
        ({"command": "nice -n 5 'my server'"}, {}, ["nice", "-n", "5", "my server"]),
        ({"command": ["a b"]}, {}, ["a b"]),
        ({"command": "pool"}, {"command": "model"}, ["model"]),
        ({"runtime": "embedded", "command": "pool"}, {}, EMBEDDED),
        ({"runtime": "embedded"}, {"command": "model"}, ["model"]),
    ],
)
def test_the_command(pool: dict[str, Any], model: dict[str, Any], expected: list[str], binary: str) -> None:
    found = find_command(ServerPool(**pool), Model(path="x", **model))
    assert found == [binary if word == "BINARY" else word for word in expected]


def test_no_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"server_pool\.runtime: no llama-server on the PATH"):
        find_command(ServerPool(runtime="llama-server"), Model(path="x"))


@pytest.mark.parametrize(
    ("pool", "model", "expected"),
    [
        ({}, {"parallel": 1}, "--parallel 1"),
        ({}, {}, "--parallel 4 --kv-unified"),
        ({"gpu_layers": 7}, {"ctx_size": 512}, "--parallel 4 --kv-unified --ctx-size 512 --gpu-layers 7"),
        ({"gpu_layers": 7}, {"gpu_layers": 0}, "--parallel 4 --kv-unified --gpu-layers 0"),
        (
            {"arguments": ["--mlock"]},
            {"parallel": 1, "arguments": ["--ctx-size", "1"]},
            "--parallel 1 --mlock --ctx-size 1",
        ),
    ],
)
@pytest.mark.parametrize("projector", [False, True])
def test_the_flags(pool: dict[str, Any], model: dict[str, Any], expected: str, projector: bool) -> None:
    flags = server_flags(
        "org/m",
        Model(path="x", **model),
        ServerPool(**pool),
        ModelFiles(path=Path("/x.gguf"), projector=Path("/p.gguf") if projector else None),
        ServerAddress("127.0.0.1", 81),
    )
    if projector:
        assert flags.index("--mmproj") + 1 == flags.index("/p.gguf")
        flags = [flag for flag in flags if flag not in ("--mmproj", "/p.gguf")]
    at = flags.index("--log-verbosity")  # at which llama.cpp tells the sizes of its buffers
    assert flags[at + 1] == "4"
    del flags[at : at + 2]
    first = "--model /x.gguf --alias org/m --host 127.0.0.1 --port 81"
    assert " ".join(flags) == f"{first} {expected}"


def appraise(path: Path) -> None:
    with closing(Calibration(None)) as nothing:
        Predictor(Config(), nothing, list).appraise(Model(path=str(path)), ModelFiles(path=path), "")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"", "is not a GGUF file"),
        (b"PK\x03\x04", "is not a GGUF file"),
        (b"GGUF\x03\x00", "is a truncated GGUF file"),
        (b"GGUF\x03" + bytes(19), None),
    ],
)
def test_the_file(content: bytes | None, message: str | None, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    if content is not None:
        path.write_bytes(content)
    if message is None:
        appraise(path)
        return
    with pytest.raises(StartError, match=message) as caught:
        appraise(path)
    assert str(path) in caught.value.failure.message
    assert not caught.value.failure.retryable


def test_a_folder_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="cannot be read: Is a directory"):
        appraise(tmp_path)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_ports(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as other:
        other.bind((host, 0))
        other.listen()
        busy = other.getsockname()[1]
        book = PortBook(host, busy)
        first, second = book.take(), book.take()
        assert busy < first < second
        book.give_back(first)
        assert book.take() == first
    free = PortBook(host, 0)
    assert free.take() != free.take()


def test_another_gateways_ports_are_left_alone_before_its_servers_listen() -> None:
    ours, theirs = PortBook("127.0.0.1", 30000), PortBook("127.0.0.1", 30000)
    taken = [ours.take(), theirs.take(), ours.take(), theirs.take()]
    assert len(set(taken)) == 4
    ours.give_back(taken[0])
    assert theirs.take() == taken[0]


@pytest.mark.parametrize(
    ("argv", "key"),
    [
        (["server", "--port", "1"], None),
        (["server", "--api-key", "a"], "a"),
        (["server", "--api-key=a,b"], "a"),
        (["server", "--api-key", "a", "--api-key", "b"], "b"),
        (["server", "--api-key-file", "FILE"], "from file"),
        (["server", "--api-key"], None),
    ],
)
def test_a_key_among_the_arguments(argv: list[str], key: str | None, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("\nfrom file\nanother\n")
    assert given_key([str(file) if word == "FILE" else word for word in argv]) == key


def test_a_key_file_that_cannot_be_read() -> None:
    with pytest.raises(ConfigError, match=r"--api-key-file: /no/such cannot be read: No such file"):
        given_key(["server", "--api-key-file", "/no/such"])


def test_no_port_is_left() -> None:
    book = PortBook("127.0.0.1", 65535)
    with pytest.raises(StartError, match="no free port on 127\\.0\\.0\\.1 from 65535 upwards"):
        [book.take() for _ in range(2)]


@pytest.mark.parametrize("own", ["-ngl all", "--gpu-layers -1", "-ngl 99", "--n-gpu-layers=auto"])
def test_layers_among_the_arguments_do_not_undo_the_placement(own: str) -> None:
    option = Option(how="partial", context=512, gpu_layers=7, layers=(1,) * 7)
    placement = Placement(option=option, shares=(Share(device="a", layers=7, bytes=7),), why="")
    model = Model(path="x", arguments=[*own.split(), "--mlock"])
    files = ModelFiles(path=Path("/x.gguf"))
    flags = server_flags("m", model, ServerPool(), files, ServerAddress("127.0.0.1", 81), placement)
    assert flags[-1] == "--mlock"
    (at,) = [index for index, word in enumerate(flags) if word.partition("=")[0] in LAYER_FLAGS]
    assert flags[at + 1] == "7"
    unmanaged = msgspec.structs.replace(placement, managed=False)
    flags = server_flags("m", model, ServerPool(), files, ServerAddress("127.0.0.1", 81), unmanaged)
    assert flags[-len(own.split()) - 1 :] == [*own.split(), "--mlock"]


def placed(context: int) -> Placement:
    option = Option(how="whole", context=context, layers=(1,) * 7)
    return Placement(option=option, shares=(Share(device="a", layers=7, bytes=7),), why="")


WHOLE = LoadSettings(context=2048, parallel=4, unified=True, pooling="cls", input_limit=1024)


@pytest.mark.parametrize(
    ("model", "settings", "placement", "expected"),
    [
        # A text is read at once: batches follow the context, up to what a slot has.
        ({}, WHOLE, None, "--ctx-size 2048 --batch-size 1024 --ubatch-size 1024"),
        (
            {"ctx_size": 512},
            replace(WHOLE, context=512, input_limit=512),
            None,
            "--ctx-size 512 --batch-size 512 --ubatch-size 512",
        ),
        (
            {},
            replace(WHOLE, unified=False, input_limit=2048),
            None,
            "--ctx-size 2048 --batch-size 512 --ubatch-size 512",
        ),
        ({}, WHOLE, placed(768), "--ctx-size 768 --batch-size 768 --ubatch-size 768"),
        # In parts: llama.cpp's own batches will do.
        ({"ctx_size": 2048}, replace(WHOLE, input_limit=0), None, "--ctx-size 2048"),
        ({}, replace(WHOLE, input_limit=0), None, ""),
        ({}, None, None, ""),
    ],
)
def test_batches_of_a_model_that_reads_a_text_at_once(
    model: dict[str, Any], settings: LoadSettings | None, placement: Placement | None, expected: str
) -> None:
    files, address = ModelFiles(path=Path("/x.gguf")), ServerAddress("127.0.0.1", 81)
    flags = server_flags(
        "m", Model(path="x", **model), ServerPool(), files, address, placement, settings=settings
    )
    names = ("--ctx-size", "--batch-size", "--ubatch-size")
    found = [word for name in names if name in flags for word in (name, flags[flags.index(name) + 1])]
    assert " ".join(found) == expected


def test_the_users_own_batches_win() -> None:
    model = Model(path="x", arguments=["--ubatch-size", "64"])
    files, address = ModelFiles(path=Path("/x.gguf")), ServerAddress("127.0.0.1", 81)
    flags = server_flags("m", model, ServerPool(), files, address, settings=WHOLE, needed=["--embeddings"])
    assert flags[-2:] == ["--ubatch-size", "64"]
    assert "--embeddings" in flags


@pytest.mark.parametrize(
    ("memory", "own", "given"),
    [
        (None, [], []),
        (2.5, [], ["2560"]),
        (0, [], ["0"]),
        (2, ["--cache-ram", "5"], ["2048", "5"]),  # the last one counts
    ],
)
def test_the_memory_of_prompts(memory: float | None, own: list[str], given: list[str]) -> None:
    pool = ServerPool(prompts=PromptSettings(memory=memory))
    files = ModelFiles(path=Path("/m.gguf"))
    flags = server_flags("m", Model(path="x", arguments=own), pool, files, ServerAddress("127.0.0.1", 81))
    assert [value for flag, value in pairwise(flags) if flag == "--cache-ram"] == given
