"""API keys that are made, rotated and revoked by `/admin/keys`."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.test_failures import stand_in
from tests.gateway import HELLO, Gateway, running


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def make(gateway: Gateway, secret: str | None = None, **fields: Any) -> httpx.Response:
    headers = {} if secret is None else bearer(secret)
    return gateway.client.post("/admin/keys", json=fields, headers=headers)


def test_from_no_key_to_none(tmp_path: Path) -> None:
    config = {"llama_cpp": {"models": {"small": stand_in(), "large": stand_in()}}}
    with running(config, tmp_path) as gateway:
        assert gateway.client.get("/admin/keys").json() == {"keys": []}
        answer = make(gateway, name="ann")
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "admin_key_missing")
        answer = make(gateway, name="boss", admin=True)
        assert (answer.status_code, answer.headers["Cache-Control"]) == (201, "no-store")
        boss = answer.json()["secret"]
        assert gateway.client.get("/admin/keys").status_code == 401, "from now on a key is needed"

        answer = make(
            gateway, boss, name="ann", models=["small"], per_minute=2, tokens_per_day=10_000, weight=2.5
        )
        ann = answer.json()["secret"]
        body = {"model": "small", "messages": HELLO, "max_tokens": 8}
        answer = gateway.client.post("/v1/chat/completions", json=body, headers=bearer(ann))
        assert answer.status_code == 200
        keys = {key["name"]: key for key in keys_of(gateway, boss)}
        assert (keys["boss"]["admin"], keys["boss"]["left"]["per_minute"]) == (True, None)
        assert (keys["ann"]["models"], keys["ann"]["weight"]) == (["small"], 2.5)
        assert keys["ann"]["hint"] == ann[-4:]
        assert (keys["ann"]["per_minute"], keys["ann"]["left"]["per_minute"]) == (2, 1)
        assert keys["ann"]["left"]["tokens_per_day"] == 10_000 - keys["ann"]["tokens_today"]

        answer = make(gateway, boss, name="ann")
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "key_exists")
        again = gateway.client.post("/admin/keys/ann/rotate", headers=bearer(boss)).json()["secret"]
        assert gateway.client.get("/v1/models", headers=bearer(ann)).status_code == 401
        assert gateway.client.get("/v1/models", headers=bearer(again)).status_code == 200

        assert gateway.client.delete("/admin/keys/boss", headers=bearer(boss)).status_code == 409
        assert gateway.client.delete("/admin/keys/ann", headers=bearer(boss)).status_code == 204
        assert gateway.client.get("/v1/models", headers=bearer(again)).status_code == 401
        assert gateway.client.delete("/admin/keys/ann", headers=bearer(boss)).status_code == 404
        assert gateway.client.post("/admin/keys/ann/rotate", headers=bearer(boss)).status_code == 404
        assert gateway.client.delete("/admin/keys/boss", headers=bearer(boss)).status_code == 204
        assert gateway.client.get("/v1/models").status_code == 200, "and now none is needed"
        log = "".join(gateway.raw)
        assert not [secret for secret in (boss, ann, again) if secret in log]


def keys_of(gateway: Gateway, secret: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = gateway.client.get("/admin/keys", headers=bearer(secret)).json()["keys"]
    return found


def test_keys_of_the_configuration_and_mistakes(tmp_path: Path) -> None:
    boss = "the-secret-of-boss"
    keys = {"boss": {"secret": boss, "admin": True}, "ann": {"secret": "the-secret-of-ann-1"}}
    with running({"keys": keys, "llama_cpp": {"models": {"small": stand_in()}}}, tmp_path) as gateway:
        assert [key["configured"] for key in keys_of(gateway, boss)] == [True, True]
        for method, path in (("DELETE", "/admin/keys/ann"), ("POST", "/admin/keys/ann/rotate")):
            answer = gateway.client.request(method, path, headers=bearer(boss))
            assert (answer.status_code, answer.json()["error"]["code"]) == (409, "key_configured")
        assert make(gateway, boss, name="ann").status_code == 409
        mistakes: list[tuple[dict[str, Any], str]] = [
            ({}, "name"),
            ({"name": "a b"}, "name"),
            ({"name": "x", "concurrent": 0}, "concurrent"),
            ({"name": "x", "weight": 0}, "weight"),
            ({"name": "x", "expires": "soon"}, "expires"),
            ({"name": "x", "models": "small"}, "models"),
        ]
        for fields, param in mistakes:
            answer = make(gateway, boss, **fields)
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text
        assert make(gateway, boss, name="x", concurent=3).status_code == 400, "a limit with a slip of the pen"
        assert make(gateway, "the-secret-of-ann-1", name="x", admin=True).status_code == 403
        assert make(gateway, boss, name="later", expires="2020-01-31").status_code == 201
        (later,) = [key for key in keys_of(gateway, boss) if key["name"] == "later"]
        assert later["expires_at"] == pytest.approx(1_580_515_199.999999)
