"""The database of keys beside a running gateway: damaged, deleted, locked, killed; and who needs no key."""

import os
import signal
import sqlite3
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.test_failures import stand_in
from tests.e2e.test_keys import ask, bearer, command
from tests.gateway import Gateway, running, until
from tests.ollama_daemons import stand_in_daemon

ALICE = "the-secret-of-alice"


def database(folder: Path) -> Path:
    return folder / "data" / "llama-smart-proxy" / "keys.sqlite3"


def small() -> dict[str, Any]:
    return {"llama_cpp": {"models": {"small": stand_in()}}}


def add(folder: Path, name: str, *options: str) -> str:
    (folder / "config.yaml").touch()
    added = command(folder, "key", "add", name, *options)
    assert added.returncode == 0, added.stderr
    return added.stdout.strip()


def test_nobody_gets_in_when_the_database_is_deleted(tmp_path: Path) -> None:
    secret = add(tmp_path, "alice")
    with running(small(), tmp_path) as gateway:
        assert ask(gateway, secret).status_code == 200
        database(tmp_path).unlink()
        assert gateway.wait_for("database of keys fails; the known keys stay", doing="read the keys")
        assert ask(gateway, "anything").status_code == 401
        assert gateway.client.get("/admin/plan?model=small").status_code == 401
        assert ask(gateway, secret).status_code == 200
        other = add(tmp_path, "bob")
        until(lambda: ask(gateway, other).status_code == 200, "the new database is read")
        assert ask(gateway, secret).status_code == 401


def test_a_locked_database_is_waited_for(tmp_path: Path) -> None:
    secret = add(tmp_path, "alice")
    with running(small(), tmp_path) as gateway:
        lock = sqlite3.connect(database(tmp_path), isolation_level=None)
        lock.execute("BEGIN EXCLUSIVE")
        assert ask(gateway, secret).status_code == 200
        lock.execute("DELETE FROM keys")
        lock.execute("COMMIT")
        lock.close()
        until(lambda: ask(gateway, "anything").status_code == 200, "the change is read")


def test_a_damaged_database_stops_the_start(tmp_path: Path) -> None:
    add(tmp_path, "alice")
    database(tmp_path).write_bytes(b"garbage" * 1000)
    refused = command(tmp_path)
    assert refused.returncode == 2
    assert "keys.sqlite3 cannot be used" in refused.stdout
    assert "Traceback" not in refused.stdout + refused.stderr
    assert command(tmp_path, "key", "list").returncode == 2


def test_spent_tokens_survive_a_kill(tmp_path: Path) -> None:
    def spent() -> dict[str, int]:
        if not database(tmp_path).exists():
            return {}
        connection = sqlite3.connect(database(tmp_path))
        try:
            return dict(connection.execute("SELECT name, sum(tokens) FROM spent GROUP BY name").fetchall())
        except sqlite3.OperationalError:  # the gateway is making its tables
            return {}
        finally:
            connection.close()

    def chat(gateway: Gateway) -> httpx.Response:
        return ask(gateway, ALICE, "tiny", max_tokens=6)

    with stand_in_daemon() as url:
        config = {
            "keys": {"alice": {"secret": ALICE, "tokens_per_day": 60}},
            "ollama": {"host": url},
        }
        with running(config, tmp_path) as gateway:
            usage = chat(gateway).json()["usage"]["total_tokens"]
            until(lambda: spent() == {"alice": usage}, "the tokens are saved")
            os.kill(gateway.process.pid, signal.SIGKILL)
            gateway.process.wait()
        with running(config, tmp_path) as gateway:
            answers = [chat(gateway) for _ in range(3)]
            assert answers[-1].status_code == 429
            assert "tokens_per_day" in answers[-1].json()["error"]["message"]


@pytest.mark.parametrize(
    "header", ["X-Forwarded-For", "X-Forwarded-Host", "Forwarded", "Via", "X-Real-IP", "x-forwarded-proto"]
)
def test_no_proxy_passes_admin_without_keys(proxied: Gateway, header: str) -> None:
    assert proxied.client.get("/admin/plan?model=small", headers={header: "127.0.0.1"}).status_code == 403


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with running(small(), tmp_path_factory.mktemp("proxied")) as gateway:
        assert gateway.client.get("/admin/plan?model=small").status_code == 200
        yield gateway


@pytest.mark.parametrize("host", ["::", "0.0.0.0"])
def test_an_address_that_others_reach_starts_with_keys_alone(tmp_path: Path, host: str) -> None:
    (tmp_path / "config.yaml").write_text("server: {port: 0}\n")
    refused = command(tmp_path, "--host", host)
    assert refused.returncode == 2
    assert "can be reached from other machines" in refused.stdout
    secret = add(tmp_path, "alice")
    with running({**small(), "server": {"host": host}}, tmp_path) as gateway:
        assert ask(gateway, secret).status_code == 200
        assert command(tmp_path, "key", "revoke", "alice").returncode == 0
        until(lambda: ask(gateway, secret).status_code == 401, "the last key is gone")
        assert gateway.client.get("/v1/models").status_code == 401
        assert gateway.client.get("/health").json() == {"status": "ok"}
        assert gateway.client.get("/admin/plan?model=small", headers=bearer(secret)).status_code == 401


@pytest.mark.parametrize(
    ("keys", "status"),
    [
        ("alice: {secret: '${KEY_OF_ALICE}'}, bob: {secret_file: bob}", 0),
        ("alice: {secret: '${KEY_OF_ALICE}', weight: 0}", 2),
        ("alice: {secret: [the-secret-of-alice]}", 2),
        ("alice: the-secret-of-alice", 2),
        ("alice: {secrets: the-secret-of-alice}", 2),
        ("alice: {secret: the-secret-of-alice, secret_file: bob}", 2),
        ("alice: {secret_file: the-file-of-alice}", 2),
    ],
)
def test_no_command_shows_a_configured_secret(tmp_path: Path, keys: str, status: int) -> None:
    (tmp_path / "config.yaml").write_text(f"keys: {{{keys}}}\n")
    (tmp_path / "bob").write_text("the-secret-of-bobby")
    for arguments in (["check"], ["key", "list"]):
        shown = command(tmp_path, *arguments, KEY_OF_ALICE=ALICE)
        said = shown.stdout + shown.stderr
        assert shown.returncode == status or (arguments == ["key", "list"] and not shown.returncode), said
        assert "the-secret-of" not in said
        assert "Traceback" not in said


def test_two_keys_with_one_secret_stop_the_start(tmp_path: Path) -> None:
    (tmp_path / "a").write_text(ALICE)
    (tmp_path / "config.yaml").write_text(
        f"keys: {{a: {{secret_file: a}}, b: {{secret: {ALICE}, admin: true}}}}\nserver: {{port: 0}}\n"
    )
    for arguments in ([], ["key", "list"]):
        refused = command(tmp_path, *arguments)
        said = refused.stdout + refused.stderr
        assert refused.returncode == 2, said
        assert "keys.b: its secret is also that of key 'a'" in said
        assert ALICE not in said
        assert "Traceback" not in said
