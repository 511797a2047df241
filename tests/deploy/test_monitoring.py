"""The dashboard and the alerts ask for nothing that the gateway does not have."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.conftest import DEMO, Start
from tests.deploy import DEPLOY, free_port, program, serving
from tests.gateway import Gateway, until

DASHBOARD = json.loads((DEPLOY / "grafana" / "dashboards" / "gateway.json").read_text())
ALERTS = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())
SCRAPING = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())

SHOWN = {
    f"{panel['title']}: {target['refId']}": target["expr"]
    for panel in DASHBOARD["panels"]
    for target in panel.get("targets", ())
}
RULES = {rule["alert"]: rule["expr"] for group in ALERTS["groups"] for rule in group["rules"]}
EXPRESSIONS = {**SHOWN, **RULES}


def names(gateway: Gateway) -> set[str]:
    """All the series that it may ever have: those of families that have none yet too."""
    text = gateway.client.get("/metrics").text
    found: set[str] = set()
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE):
        found |= {f"{name}_{part}" for part in ("bucket", "count", "sum")} if kind == "histogram" else {name}
    return found


def test_all_that_is_asked_for_exists(gateway: Gateway) -> None:
    known = names(gateway)
    for title, expression in EXPRESSIONS.items():
        asked = set(re.findall(r"\b(?:llama_proxy|process)_\w+", expression))
        assert asked - known == set(), title
        assert asked, title
    variables = {one["name"]: one["query"]["query"] for one in DASHBOARD["templating"]["list"]}
    assert variables.keys() == {"job", "instance", "model"}
    for query in variables.values():
        assert re.findall(r"label_values\((\w+)[{,]", query)[0] in known


def test_it_does_not_matter_what_the_scrape_job_is_called() -> None:
    """Prometheus names it: by pods' annotations it is `kubernetes-pods` or whatever its settings say."""
    for title, expression in EXPRESSIONS.items():
        assert not re.search(r'job(=|!=|=~)"(?!\$job)', expression), title
    for title, expression in SHOWN.items():
        series = re.findall(r"\b(?:llama_proxy|process)_\w+(\{[^}]*\})?", expression)
        assert all('job=~"$job", instance=~"$instance"' in selector for selector in series), title


def test_when_they_fire() -> None:
    promtool = program("promtool")
    rules, tests = DEPLOY / "prometheus" / "alerts.yml", Path(__file__).with_name("alerts.test.yml")
    for command in (["check", "rules", str(rules)], ["test", "rules", str(tests)]):
        done = subprocess.run([promtool, *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_panels_have_places_and_the_source_that_is_provisioned() -> None:
    (source,) = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text())[
        "datasources"
    ]
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + dx, place["y"] + dy) for dx in range(place["w"]) for dy in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert all(x < 24 for x, _ in cells)
        taken |= cells
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == source["uid"]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


@pytest.mark.timeout(120)
def test_prometheus_itself(start: Start, real_server: None, tmp_path: Path) -> None:
    prometheus = program("prometheus")
    gateway = start({"demo": DEMO})
    port = free_port()
    config: Any = {
        **SCRAPING,
        "global": {"scrape_interval": "250ms", "evaluation_interval": "250ms"},
        "rule_files": [str(DEPLOY / "prometheus" / "alerts.yml")],
    }
    (job,) = config["scrape_configs"]
    job["static_configs"][0]["targets"] = [gateway.url.removeprefix("http://")]
    job["job_name"] = "kubernetes-pods"  # as it may be where pods' annotations say what is scraped
    path = tmp_path / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    command = [
        prometheus,
        f"--config.file={path}",
        f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (
        serving(command, port, tmp_path / "log"),
        httpx.Client(base_url=f"http://127.0.0.1:{port}") as client,
    ):

        def ask(expression: str) -> list[Any]:
            asked = expression.replace("$__rate_interval", "10s")
            for variable in ("job", "instance", "model"):
                asked = asked.replace(f"${variable}", ".*")
            answer = client.get("/api/v1/query", params={"query": asked}).json()
            assert answer["status"] == "success", f"{asked}: {answer}"
            found: list[Any] = answer["data"]["result"]
            return found

        until(lambda: ask("up == 1"), "it is asked", 20)
        until(
            lambda: gateway.chat(stream=True).status_code == 200 and ask(SHOWN["By model: A"]), "a rate", 20
        )
        empty = {title for title, expression in SHOWN.items() if not ask(expression)}
        # The last look may have been in the middle of a request.
        assert {title for title in empty if not title.startswith(("GPU ", "Busy slots"))} == {
            "Failures per hour: A",
            "Rejections per hour: A",
            "Waiting, by model: A",
        }, "all the others have something to show"
        rules = client.get("/api/v1/rules").json()["data"]["groups"][0]["rules"]
        assert {rule["name"]: rule["health"] for rule in rules} == dict.fromkeys(RULES, "ok")
        assert [rule["name"] for rule in rules if rule["state"] != "inactive"] == []
