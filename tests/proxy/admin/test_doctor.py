"""`/admin/doctor` of a gateway that serves."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.gateway import running


def test_a_gateway_examines_itself(tmp_path: Path) -> None:
    config = {"llama_cpp": {"models": {"demo": {"path": "builtin:demo"}}}}
    with running(config, tmp_path) as gateway:
        with ThreadPoolExecutor(2) as threads:
            answers = list(threads.map(lambda _: gateway.client.get("/admin/doctor"), range(2)))
        (tmp_path / "config.yaml").write_text("server: {port: many}")
        later = gateway.client.get("/admin/doctor").json()["checks"]
    for answer in answers:
        assert answer.status_code == 200
        found = {one["name"]: one for one in answer.json()["checks"]}
        assert found["configuration"]["status"] == "ok"
        assert found["llama-server"]["found"].startswith("embedded, build xllamacpp")
        assert set(found["disk"]) == {"name", "status", "found", "cure"}
    assert [one["status"] for one in later if one["name"] == "configuration"] == ["error"]
