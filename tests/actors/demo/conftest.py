"""The built-in models for chat as the settings of the checkout have it."""

from collections.abc import Iterator

import pytest
import yaml

from tests.gateway import CHECKOUT, Gateway, running


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory, cache: str, real_server: None) -> Iterator[Gateway]:
    """A gateway with the demo models for chat."""
    models = yaml.safe_load((CHECKOUT / "config.yaml").read_text())["llama_cpp"]["models"]
    config = {"llama_cpp": {"models": {name: models[name] for name in ("demo", "demo-reasoning")}}}
    with running(config, tmp_path_factory.mktemp("shipped"), XDG_CACHE_HOME=cache) as gateway:
        yield gateway
