"""What is said of folders, ports and open files."""

import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from proxy.doctor import machine
from proxy.doctor.machine import check_certificate, check_files, check_folders, check_ports, judge_files
from tests.certificates import write_pair
from tests.gateway import running
from tests.proxy.doctor.patients import patient, the_one
from tests.raw_server import answer, saying

ONE_FOLDER: dict[str, Any] = {"usage": {"keep_days": 0}, "server_pool": {"prompts": {"disk": 0}}}
"""Settings with which only the cache is used."""


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path


async def test_each_folder_that_is_used(folders: Path) -> None:
    ill = patient(folders, hub={"allow": ["*"], "cache_dir": "hub"}, server={"keep_responses": 60})
    found = await check_folders(ill)
    assert [one.status for one in found] == ["ok"] * 4
    assert [one.found.partition(")")[0] for one in found] == [
        f"{folders}/cache/llama-smart-proxy (built-in models and what loads took",
        f"{folders}/hub (downloaded models",
        f"{folders}/data/llama-smart-proxy (kept responses, usage",
        f"{folders}/cache/llama-smart-proxy/prompts (saved prompts",
    ]
    assert not (folders / "hub").exists()


async def test_a_folder_that_is_no_folder(folders: Path) -> None:
    (folders / "cache").write_text("")
    finding = await the_one(check_folders, patient(folders, **ONE_FOLDER))
    assert (finding.status, finding.cure) == ("error", f"move {folders}/cache away")


@pytest.mark.parametrize(("low", "none", "status"), [(1 << 60, 0, "warning"), (1 << 60, 1 << 60, "error")])
async def test_a_disk_that_is_full(
    low: int, none: int, status: str, folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "LOW_SPACE", low)
    monkeypatch.setattr(machine, "NO_SPACE", none)
    finding = await the_one(check_folders, patient(folders, **ONE_FOLDER))
    assert finding.status == status
    assert finding.cure is not None


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


async def test_ports_that_are_free(folders: Path) -> None:
    port = free_port()
    own, servers = await check_ports(patient(folders, server={"port": port}))
    assert (own.status, own.found) == ("ok", f"127.0.0.1:{port} is free")
    assert servers.status == "ok"
    own, _ = await check_ports(patient(folders, server={"port": 0}))
    assert own.status == "ok"


async def test_a_port_of_another_program(folders: Path) -> None:
    async with saying(lambda _: answer(b"hello")) as url:
        port = int(url.rpartition(":")[2])
        own, _ = await check_ports(patient(folders, server={"port": port}))
        assert own.status == "error"
        assert own.cure is not None
        assert "end the program" in own.cure
        own, _ = await check_ports(patient(folders, serves=True, server={"port": port}))
        assert own.status == "ok"


async def test_a_port_of_a_gateway(folders: Path) -> None:
    with running({}, folders) as gateway:
        port = int(gateway.url.rpartition(":")[2])
        own, _ = await check_ports(patient(folders, server={"port": port}))
    assert own.found == f"127.0.0.1:{port}: a gateway listens there already"


async def test_addresses_of_other_machines(folders: Path) -> None:
    other = "192.0.2.1"
    found = await check_ports(patient(folders, server={"host": other}, server_pool={"host": other}))
    assert [one.status for one in found] == ["error", "error"]
    assert all("of this machine" in str(one.cure) for one in found)


async def test_no_certificate(folders: Path) -> None:
    assert (await the_one(check_certificate, patient(folders))).status == "absent"


@pytest.mark.parametrize(("days", "status"), [(15, "ok"), (13, "warning"), (-1, "error")])
async def test_a_certificate(days: int, status: str, folders: Path) -> None:
    tls = write_pair(folders, expires=datetime.now(UTC) + timedelta(days=days))
    pair = {"certificate": tls.certificate, "key": tls.key}
    finding = await the_one(check_certificate, patient(folders, server={"tls": pair}))
    assert (finding.status, finding.cure is None) == (status, status == "ok")


async def test_a_certificate_that_cannot_be_used(folders: Path) -> None:
    pair = {"certificate": "none.pem", "key": "none.pem"}
    finding = await the_one(check_certificate, patient(folders, server={"tls": pair}))
    assert finding.status == "error"
    assert f"{folders}/none.pem cannot be read" in finding.found


async def test_open_files(folders: Path) -> None:
    assert (await the_one(check_files, patient(folders))).name == "open files"


@pytest.mark.parametrize(
    ("soft", "hard", "queue_size", "status", "words"),
    [
        (1024, 1 << 20, 256, "ok", "at least 8,320"),
        (1024, 1 << 20, 20_000, "ok", "at least 24,224"),
        (-1, -1, 256, "ok", "at least 8,320"),
        (1024, 4096, 256, "warning", "4,096 are allowed, which is enough for 1,984 clients"),
        (1024, 20_000, 20_000, "warning", "20,000 are allowed, which is enough for 15,776 clients"),
        (64, 64, 256, "error", "for 16 clients"),
    ],
)
def test_limits_of_open_files(soft: int, hard: int, queue_size: int, status: str, words: str) -> None:
    finding = judge_files(soft, hard, queue_size=queue_size)
    assert finding.status == status
    assert words in finding.found
