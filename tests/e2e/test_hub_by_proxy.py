"""A hub that only the environment's proxy can reach: list, header and files come by it, and nothing else."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from actors.demo.model import write_demo
from tests.gateway import CHECKOUT, running
from tests.stand_in_hub import StandInHub
from tests.stand_in_proxy import StandInProxy

NAME = "Org/Demo-GGUF:Q8_0"
HUB, CDN = "hub.invalid", "cdn.invalid"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[StandInHub]:
    folder = tmp_path / "hub" / "Org/Demo-GGUF"
    folder.mkdir(parents=True)
    write_demo(folder / "demo-Q8_0.gguf", embedding=False)
    with StandInHub(tmp_path / "hub") as hub:
        yield hub


@pytest.fixture
def proxy(site: StandInHub) -> Iterator[StandInProxy]:
    port = int(site.url.rpartition(":")[2])
    with StandInProxy({HUB: port, CDN: port}) as proxy:
        yield proxy


def environment(**more: str) -> dict[str, str]:
    """No proxy but those named here. The lower-case names count before the others."""
    names = [f"{kind}_proxy" for kind in ("http", "https", "all", "no")]
    return {**dict.fromkeys(names, ""), **dict.fromkeys(map(str.upper, names), ""), **more}


def test_all_of_a_model_comes_by_the_proxy(
    site: StandInHub, proxy: StandInProxy, tmp_path: Path, cache: str, real_server: None
) -> None:
    site.redirect = f"http://{CDN}"
    hub = {"endpoint": f"http://{HUB}", "cache_dir": str(tmp_path / "cache"), "allow": ["org/*"]}
    variables = environment(http_proxy=proxy.url, https_proxy=proxy.url)
    config = {"hub": hub, "llama_cpp": {"models": {"d": {"repo": "org/demo-gguf"}}}}
    with running(config, tmp_path, XDG_CACHE_HOME=cache, **variables) as gateway:
        assert gateway.chat(NAME).status_code == 200, "its server on the loopback address is reached"
        port = gateway.url.rpartition(":")[2]
        words = ("plan", "d", "--json", "--port", port, "--config", str(tmp_path / "config.yaml"))
        told = json.loads(_run(*words, **variables).stdout)
        assert told["source"] == f"as the gateway on port {port} sees them"
    assert set(proxy.asked) == {HUB, CDN}, "whatever is on this machine is reached directly"


def test_no_proxy_counts_for_the_download_too(site: StandInHub, tmp_path: Path) -> None:
    with StandInProxy({}) as dead:
        config = tmp_path / "config.yaml"
        settings = {"hub": {"endpoint": site.url, "cache_dir": str(tmp_path / "cache")}}
        config.write_text(yaml.safe_dump(settings))
        words = ("pull", NAME, "--config", str(config))
        refused = _run(*words, **environment(http_proxy=dead.url))
        assert refused.returncode == 1
        assert "502" in refused.stderr
        assert dead.asked
        dead.asked.clear()
        pulled = _run(*words, **environment(http_proxy=dead.url, no_proxy="127.0.0.1"))
        assert pulled.returncode == 0, pulled.stderr
        assert dead.asked == []


@pytest.mark.parametrize("endpoint", [f"http://{HUB}", f"https://{HUB}"])
def test_a_proxy_that_refuses_is_told(tmp_path: Path, endpoint: str) -> None:
    with StandInProxy({}) as proxy:
        config = tmp_path / "config.yaml"
        config.write_text(yaml.safe_dump({"hub": {"endpoint": endpoint, "cache_dir": str(tmp_path)}}))
        variables = environment(http_proxy=proxy.url, https_proxy=proxy.url)
        refused = _run("pull", NAME, "--config", str(config), **variables)
    assert refused.returncode == 1
    assert "Traceback" not in refused.stderr
    assert NAME.partition(":")[0] in refused.stderr
    assert proxy.asked[0].startswith(HUB)


def _run(*words: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(CHECKOUT / "run.py"), *words]
    env = {**os.environ, **variables}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=env)
