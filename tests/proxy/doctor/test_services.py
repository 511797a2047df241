"""What is said of Docker and Ollama."""

import asyncio
from pathlib import Path

from proxy.doctor.services import check_daemons, check_engine
from tests.proxy.doctor.patients import patient, the_one
from tests.raw_server import answer, saying
from tests.stand_in_engine import stand_in_engine


async def test_an_engine(tmp_path: Path) -> None:
    socket = tmp_path / "docker.sock"
    async with stand_in_engine(socket):
        docker = {"host": f"unix://{socket}"}
        used = await the_one(
            check_engine, patient(tmp_path, server_pool={"runtime": "docker", "docker": docker})
        )
        unused = await the_one(check_engine, patient(tmp_path, server_pool={"docker": docker}))
    assert used.status == unused.status == "ok"
    assert unused.found == f"{used.found}; no model needs it"


async def test_an_engine_that_is_away(tmp_path: Path) -> None:
    pool = {"docker": {"host": f"unix://{tmp_path}/none.sock"}}
    models = {"m": {"path": "builtin:demo", "runtime": "docker"}, "n": {"path": "builtin:demo"}}
    needed = await the_one(check_engine, patient(tmp_path, server_pool=pool, llama_cpp={"models": models}))
    assert needed.status == "error"
    assert needed.found.endswith("; needed by m")
    assert (await the_one(check_engine, patient(tmp_path, server_pool=pool))).status == "absent"


def ollama(request: bytes) -> bytes:
    tags = b'{"models": [{"name": "qwen:latest"}]}'
    return answer(b'{"version": "0.32.1"}' if b"/api/version" in request else tags)


async def test_a_daemon(tmp_path: Path) -> None:
    async with saying(ollama) as url:
        assert (await the_one(check_daemons, patient(tmp_path))).status == "absent"
        settings = {"host": url, "models": {"qwen": {}}}
        found = await the_one(check_daemons, patient(tmp_path, ollama=settings))
        assert (found.name, found.status) == ("Ollama", "ok")
        assert found.found == f"{url}, version 0.32.1, 1 models"
        settings["models"] = {"own": {"model": "other:7b"}}
        found = await the_one(check_daemons, patient(tmp_path, ollama=settings))
        assert (found.status, found.cure) == ("error", "ollama pull other:7b, or set ollama.pull: true")
        found = await the_one(check_daemons, patient(tmp_path, ollama={**settings, "pull": True}))
        assert found.status == "ok"


async def test_daemons_are_asked_at_the_same_time(tmp_path: Path) -> None:
    met = asyncio.Barrier(2)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await met.wait()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()[:2]
        url = f"http://{host}:{port}"
        settings = {"daemons": {"one": url, "two": url}, "models": {"qwen": {"daemon": "two"}}}
        first, second = await check_daemons(patient(tmp_path, ollama=settings))
    assert (first.name, second.name) == ("Ollama one", "Ollama two")
    assert first.status == second.status == "error"
    assert second.found.endswith("needed by qwen")
